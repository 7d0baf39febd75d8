"""Which folder something was written for, so that a copy of it is told from the folder itself. Torch-free."""

from pathlib import Path
from typing import NamedTuple


class Folder(NamedTuple):
    """A folder by its path and by its number on its disk. A move changes the first, a copy both."""

    path: str = ""
    inode: int = 0

    @staticmethod
    def at(path: Path) -> "Folder":
        """The one that is there now. Raises: OSError."""
        return Folder(str(path.resolve()), path.stat().st_ino)

    def is_copied_to(self, other: "Folder") -> bool:
        """Whether what was written for this folder stands in another one. False where it is not known for which folder it was."""
        return self != UNKNOWN and self.path != other.path and self.inode != other.inode


UNKNOWN = Folder()
"""Of what was written by a release that did not say."""
