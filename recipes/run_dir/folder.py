"""Identifies the folder that a file was written for, to distinguish a copy of a folder from the folder itself. Torch-free."""

from pathlib import Path
from typing import NamedTuple


class Folder(NamedTuple):
    """A folder by its path and its inode. Moving a folder changes the path; copying it changes both."""

    path: str = ""
    inode: int = 0

    @staticmethod
    def at(path: Path) -> "Folder":
        """Return the folder that is at `path` now. Raises: OSError."""
        return Folder(str(path.resolve()), path.stat().st_ino)

    def is_copied_to(self, other: "Folder") -> bool:
        """True if `other` is a copy of this folder. False if this folder is UNKNOWN."""
        return self != UNKNOWN and self.path != other.path and self.inode != other.inode


UNKNOWN = Folder()
"""The folder of a file from a release that did not record it."""
