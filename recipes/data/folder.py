"""Lists a folder: every file below it, also through links to folders, and the entries that were skipped, with the reason. Opens no file.
source.py, media_source.py and splits.py choose which of the files are read."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError

NAMED = 5
"""Number of entries of a list that a message names."""


@dataclass(frozen=True)
class Listing:
    """Content of a folder. Paths are relative to the folder, with `/` between names."""

    folder: Path
    files: list[str] = field(default_factory=list)
    """Sorted, without hidden files."""
    links: dict[str, str] = field(default_factory=dict)
    """Each of `files` that is a symbolic link -> the full path of its target."""
    real_folders: dict[str, str] = field(default_factory=dict)
    """Each folder that was listed ("" is the folder itself) -> its full path with links resolved."""
    hidden: list[str] = field(default_factory=list)
    """Files and folders whose name begins with a dot."""
    skipped: list[str] = field(default_factory=list)
    """Skipped entries with the reason, such as `/data/b: Permission denied`."""

    def without_duplicates(self, paths: list[str]) -> list[str]:
        """Return `paths`, in their order, without duplicates of a file. A link is dropped if `paths` has the file itself. If `paths` has
        only links to a file, the first link is kept."""
        linked = [path for path in paths if path in self.links]
        if not linked:
            return paths
        seen = {self._real(path) for path in paths if path not in self.links}
        dropped = set()
        for path in linked:
            if self.links[path] in seen:
                dropped.add(path)
            seen.add(self.links[path])
        return [path for path in paths if path not in dropped]

    def _real(self, path: str) -> str:
        parent, name = os.path.split(path)
        return os.path.join(self.real_folders[parent], name)


def resolve_data_path(path: str | Path) -> Path | None:
    """Return the full path of the file or folder that `--data` names, or None if there is no such file or folder.

    Raises: ConfigError if this cannot be decided (such as a missing permission), or if the path is neither a file nor a folder.
    """
    try:
        full_path = Path(path).expanduser()
        full_path.stat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # RuntimeError: the home folder of an unknown user
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--data {path}: {_reason(error)}; correct the path or its permissions") from error
    if not (full_path.is_file() or full_path.is_dir()):
        raise ConfigError(f"--data {path}: neither a file nor a folder; copy it into one")
    return full_path.resolve()


def list_folder(folder: Path, has_meaning: Callable[[str], Any] = lambda name: None) -> Listing:
    """List every file below the folder that is not hidden. Links to folders are followed, and a folder that several paths lead to is listed
    once.

    Of these paths, one without links is used before one through a link, and otherwise the first in sort order. A link counts as a folder of
    its own, not as a link, if has_meaning(name of the link) is true, as for the name of a split.
    Raises: ConfigError if the folder itself cannot be read.
    """
    found = Listing(folder)
    seen: dict[str, str] = {}
    waiting, links = [""], deque[str]()
    while waiting or links:
        relative = waiting.pop() if waiting else links.popleft()
        real = os.path.realpath(folder / relative)
        if real in seen:
            found.skipped.append(f"{folder / relative}: the same folder as {folder / seen[real]}")
            continue
        seen[real], found.real_folders[relative] = relative, real
        below = _list_one(found, relative)
        is_last = {path: os.path.islink(folder / path) and not has_meaning(os.path.basename(path)) for path in below}
        links += [path for path in below if is_last[path]]
        waiting += [path for path in reversed(below) if not is_last[path]]
    found.files.sort()
    found.skipped.sort()
    return found


def _list_one(found: Listing, relative: str) -> list[str]:
    """Add the files and the skipped entries of one folder to `found`, and return the paths of its sub-folders, sorted. `relative`: the path
    of the folder below the listed folder, "" for the listed folder itself."""
    try:
        with os.scandir(found.folder / relative) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if not relative:
            raise ConfigError(f"{found.folder}: cannot be read ({_reason(error)}); correct its permissions") from error
        found.skipped.append(f"{found.folder / relative}: {_reason(error)}")
        return []
    prefix = f"{relative}/" if relative else ""
    return [prefix + entry.name for entry in entries if _add_unless_folder(found, prefix, entry)]


def _add_unless_folder(found: Listing, prefix: str, entry: os.DirEntry[str]) -> bool:
    """Return True if the entry is a folder that is not hidden: the caller has to list it. Otherwise add the entry to `found`, as a file, as
    hidden or as skipped, and return False. `prefix`: the relative path of the entry's folder, with a slash at its end."""
    if entry.name.startswith("."):
        found.hidden.append(prefix + entry.name)
        return False
    try:
        if entry.is_dir():
            return True
        reason = "" if entry.is_file() else "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
    except OSError as error:  # such as a link to itself
        reason = _reason(error)
    if reason:
        found.skipped.append(f"{entry.path}: {reason}")
        return False
    found.files.append(prefix + entry.name)
    if entry.is_symlink():
        found.links[prefix + entry.name] = os.path.realpath(entry.path)
    return False


def count_suffixes(paths: Iterable[str]) -> str:
    """Count the paths of each suffix, for a message: `40 .mp3, 3 .txt.gz, 1 without suffix`. The five most frequent suffixes are named, the
    most frequent first. If there are no paths, return `nothing`."""
    kinds = Counter(_suffix(path.lower()) for path in paths)
    return format_names([f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds.most_common()]) or "nothing"


def _suffix(path: str) -> str:
    stem, suffix = os.path.splitext(path)
    return os.path.splitext(stem)[1] + suffix if suffix == ".gz" else suffix


def format_names(names: list[str], between: str = ", ") -> str:
    """Return the first five names (NAMED) joined by `between`, for a message. If there are more, their number follows: `12 more`."""
    return between.join(names[:NAMED] + [f"{len(names) - NAMED:,} more"] * (len(names) > NAMED))


def printable(line: str) -> str:
    """Return the line with bytes that are not UTF-8 escaped. File names may contain such bytes, and a terminal cannot show them."""
    return line.encode(errors="backslashreplace").decode()


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
