"""What lies in a folder: every file below it, through links to folders too, and what was passed over, with the reason. Opens no file, and
knows neither kinds of data nor splits."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError

NAMED = 5
"""As many of a list are named in one line."""


@dataclass(frozen=True)
class Listing:
    """Paths are relative to the folder, with `/` between names."""

    folder: Path
    files: list[str] = field(default_factory=list)
    """Sorted, without hidden ones."""
    links: dict[str, str] = field(default_factory=dict)
    """Those of the files that are links, and the full path that each leads to."""
    real_folders: dict[str, str] = field(default_factory=dict)
    """Full path without links of every folder that was looked into, "" for the folder itself."""
    hidden: list[str] = field(default_factory=list)
    """Files and folders whose name begins with a dot."""
    passed_over: list[str] = field(default_factory=list)
    """`/data/b: Permission denied`."""

    def each_once(self, paths: list[str]) -> list[str]:
        """`paths` without links to files that are among them anyway, and without second links to one file."""
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


def find_place(path: str | Path) -> Path | None:
    """The full path of the file or folder that `--data` names; None where there is none.

    Raises: ConfigError where nobody can tell.
    """
    try:
        place = Path(path).expanduser()
        place.stat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # the last: the home folder of nobody
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--data {path}: {_reason(error)}; correct the path or its permissions") from error
    if not (place.is_file() or place.is_dir()):
        raise ConfigError(f"--data {path}: neither a file nor a folder; copy it into one")
    return place.resolve()


def list_folder(folder: Path, has_meaning: Callable[[str], Any] = lambda name: None) -> Listing:
    """Every file below the folder that is not hidden. A folder that can be reached on several ways is looked into once.
    Its files then have the first of its names in sort order. A link whose name has no meaning, such as that of a split, comes last.

    Raises: ConfigError where the folder itself cannot be read.
    """
    found = Listing(folder)
    seen: dict[str, str] = {}
    waiting, links = [""], deque[str]()
    while waiting or links:
        relative = waiting.pop() if waiting else links.popleft()
        real = os.path.realpath(folder / relative)
        if real in seen:
            found.passed_over.append(f"{folder / relative}: the same folder as {folder / seen[real]}")
            continue
        seen[real], found.real_folders[relative] = relative, real
        below = _look_into(found, relative)
        is_last = {path: os.path.islink(folder / path) and not has_meaning(os.path.basename(path)) for path in below}
        links += [path for path in below if is_last[path]]
        waiting += [path for path in reversed(below) if not is_last[path]]
    found.files.sort()
    found.passed_over.sort()
    return found


def _look_into(found: Listing, relative: str) -> list[str]:
    """Note the files of one folder; its sub-folders."""
    try:
        with os.scandir(found.folder / relative) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if not relative:
            raise ConfigError(f"{found.folder}: cannot be read ({_reason(error)}); correct its permissions") from error
        found.passed_over.append(f"{found.folder / relative}: {_reason(error)}")
        return []
    prefix = f"{relative}/" if relative else ""
    return [prefix + entry.name for entry in entries if _is_folder(found, prefix, entry)]


def _is_folder(found: Listing, prefix: str, entry: os.DirEntry[str]) -> bool:
    """Whether to look into it; anything else is noted."""
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
        found.passed_over.append(f"{entry.path}: {reason}")
        return False
    found.files.append(prefix + entry.name)
    if entry.is_symlink():
        found.links[prefix + entry.name] = os.path.realpath(entry.path)
    return False


def count_suffixes(paths: Iterable[str]) -> str:
    """`40 .mp3, 1 without suffix`; the most frequent first, `nothing` where there are none."""
    kinds = Counter(os.path.splitext(path)[1].lower() for path in paths)
    return name_some([f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds.most_common()]) or "nothing"


def name_some(names: list[str], between: str = ", ") -> str:
    """The first few, for one line."""
    return between.join(names[:NAMED] + [f"{len(names) - NAMED:,} more"] * (len(names) > NAMED))


def printable(line: str) -> str:
    """Without what no terminal takes: names of files that are no UTF-8."""
    return line.encode(errors="backslashreplace").decode()


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
