"""Finds which files of a folder are training data, by the names of folders and files at any depth: `train-clean-100/`,
`images/val2017/`, `Test-00000-of-00003.parquet`. Opens no file.

A level is the folders and files that are direct children of one folder. A name that contains a split's word names that split
- if every name of the level contains such a word, or if at least half of them do and they include training data and another split;
- or if it consists of the word alone (`test/`, `val2017/`). `train/` does so only if the level has other splits too.
So `bullet_train/` and `train/` beside other classes are classes. With `test/` beside classes the user has to choose.
Inside of splits that are on one level, names have no such meaning: train/test/ beside val/ is a class. Single recordings and images of a
level name splits only if all of them do, and not all the same one.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import NamedTuple

from recipes.data.folder import NAMED, Listing, count_suffixes, format_names, printable
from recipes.errors import ConfigError, MissingSplit
from recipes.suggestions import did_you_mean

SPLITS = {
    "train": ("train", "training", "trainset", "trainval"),
    "valid": ("valid", "validation", "val", "dev", "development", "validationset", "valset", "devset", "heldout", "holdout"),
    "test": ("test", "testing", "testset", "devtest", "eval", "evaluation", "evalset"),
}
"""Words for each split. They include the names that the `datasets` library uses."""
ALL = "all"  # selects the files of all splits
KNOWN_NAMES = (ALL, *SPLITS, *chain(*SPLITS.values()))
SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")


class SplitName(NamedTuple):
    """The split that a name contains: train, valid or test. `is_whole_name` is True if the name contains no other word."""

    split: str
    is_whole_name: bool


@dataclass(frozen=True)
class Part:
    """Files of one split in one place. split None: no name says which split."""

    split: str | None
    place: str
    """Their folder. For files that are named for a split, the folder and the split."""
    paths: list[str]
    is_folder: bool = True
    is_beside_splits: bool = False
    """True if no name says which split, although splits are beside it."""

    def label(self, path: str, base: str) -> str | None:
        """Return the class of the file `path`: its folder below `base`, without the split's own name. None if no folder remains."""
        is_named_folder = self.is_folder and self.split is not None
        above = os.path.dirname(self.place) if is_named_folder else os.path.dirname(path)
        below = os.path.dirname(path.removeprefix(f"{self.place}/")) if is_named_folder else ""
        inside = above.removeprefix(base).removeprefix("/") if f"{above}/".startswith(f"{base}/") else above
        return _join(inside, below) or None


@dataclass(frozen=True)
class Choice:
    """The files of a folder that are read (taken), and those that are not (left)."""

    listing: Listing
    name: str
    taken: list[Part]
    left: list[Part]

    @cached_property
    def paths(self) -> list[str]:
        """The files that are read, sorted, each once."""
        return self.listing.without_duplicates(sorted(path for part in self.taken for path in part.paths))

    @property
    def root(self) -> str:
        """The folder of the split, if all files that are read are in one folder beside those of other splits. Else ""."""
        part = self.taken[0]
        is_only = len(self.taken) == 1 and bool(self.left) and part.is_folder and part.split is not None
        return part.place if is_only and os.path.dirname(part.place) == self._base else ""

    @property
    def labels(self) -> list[str | None] | None:
        """Class of each of `paths`: its path below the folder with the splits, without the split's name. None: take the whole folder."""
        if self.root or not any(part.split for part in self.taken):
            return None
        found = {path: part.label(path, self._base) for part in self.taken for path in part.paths}
        return [found[path] for path in self.paths]

    @cached_property
    def _base(self) -> str:
        """The folder that contains the splits."""
        places = [os.path.dirname(part.place) for part in (*self.taken, *self.left) if part.split]
        return os.path.commonpath(places) if places and all(places) else ""

    def describe(self, others: Sequence[str]) -> str:
        """Return one line that says what is read and what is not. `others`: files of kinds that are not read."""
        num_links = sum(len(part.paths) for part in self.taken) - len(self.paths)
        left = _describe_parts(self.left)
        left += [count_suffixes(others)] * bool(others)
        left += [f"{len(self.listing.hidden):,} hidden"] * bool(self.listing.hidden)
        left += [f"{num_links:,} links to files that are read anyway"] * bool(num_links)
        left = [", ".join(left)] * bool(left) + [format_names(self.listing.skipped, "; ")] * bool(self.listing.skipped)
        places = format_names([part.place for part in self.taken if part.split and self.name != ALL])
        num_loose = sum(len(part.paths) for part in self.taken if not part.split) * bool(places)
        taken = f"{self.name}: {_num_files(len(self.paths))} ({count_suffixes(self.paths)}){' of ' * bool(places)}{places}"
        taken += f" and {num_loose:,} that are named for no split" * bool(num_loose)
        return printable("; left out: ".join([taken, "; ".join(left)] if left else [taken]))


def split_of(name: str) -> str:
    """Return train, valid or test if `name` is a word for one of them, such as Dev for valid. Return any other name unchanged."""
    lower = name.lower()
    return next((split for split, words in SPLITS.items() if lower in words), name)


def find_split_name(name: str) -> SplitName | None:
    """Return the split of the first word in the name that means a split, such as `dev` in `dev-train-1`. None if there is none."""
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", SHARD.sub("", name))
    words = [split_of(word) for word in re.findall(r"[^\W\d_]+", bare.lower())]
    found = next((word for word in words if word in SPLITS), None)
    return None if found is None else SplitName(found, len(words) == 1)


def choose_files(listing: Listing, paths: list[str], wanted: str | None, is_item: Callable[[str], bool]) -> Choice:
    """Return which of `paths` (sorted) to read. `wanted`: a split or the name of a folder or stem; "all": every file; None: the training
    data if names mark a split other than train, else every file. `is_item`: True if a file is a single recording or image.

    Raises: MissingSplit if there is none. ConfigError if the names do not say which files are training data.
    """
    parts = list(_find_parts(paths, "", is_item))
    if wanted is None:
        return _training_data(listing, parts)
    asked = split_of(wanted)
    is_whole = asked == "train" and not _has_held_out(parts)  # these data have no splits
    if is_whole or wanted.lower() == ALL:
        return Choice(listing, ALL, parts, [])
    if asked not in SPLITS:
        return _named(listing, parts, wanted)
    found = [part for part in parts if part.split == asked]
    if not found and asked == "train":
        found = [part for part in parts if part.split is None]
    if not found:
        raise MissingSplit(f"{listing.folder}: no split {wanted!r}, {_explain_missing(parts, wanted)}")
    return Choice(listing, wanted, found, [part for part in parts if part not in found])


def choose_names(name: str, splits: Sequence[str], wanted: str | None) -> list[str]:
    """Return those of `splits` that match `wanted`. None: train. "all": all of them. `name`: the data set's name, for the error message.

    Raises: MissingSplit if none matches.
    """
    if wanted is not None and wanted.lower() == ALL:
        return list(splits)
    asked = wanted or "train"
    found = [asked] if asked in splits else [one for one in splits if split_of(one) == split_of(asked)]
    if not found:
        there = ", ".join(splits)
        raise MissingSplit(f"{name}: no split {asked!r}, {did_you_mean(asked, splits)}there are {there}; point --data at data that has one")
    return found


def check_file(path: Path, wanted: str | None) -> None:
    """Check that `wanted` is None, "all" or a word for train, since a single file is training data. Raises: MissingSplit otherwise."""
    if wanted is not None and wanted.lower() != ALL and split_of(wanted) != "train":
        hint = did_you_mean(wanted, KNOWN_NAMES) or "give the file of that split"
        raise MissingSplit(f"{path}: one file is one split, and {wanted!r} was asked for; {hint.strip()}")


def _training_data(listing: Listing, parts: list[Part]) -> Choice:
    if not _has_held_out(parts):
        return Choice(listing, ALL, parts, [])
    if not any(part.split == "train" for part in parts) or any(part.is_beside_splits for part in parts):
        train = "data.split=train, " * any(part.split in ("train", None) for part in parts)
        raise ConfigError(
            f"{listing.folder}: its names do not say which part is training data, there are {', '.join(_describe_parts(parts))}; "
            f"--set {train}data.split={ALL} or the name of a folder in it"
        )
    taken = [part for part in parts if part.split in ("train", None)]
    return Choice(listing, "train", taken, [part for part in parts if part not in taken])


def _has_held_out(parts: list[Part]) -> bool:
    return any(part.split not in ("train", None) for part in parts)


def _named(listing: Listing, parts: list[Part], wanted: str) -> Choice:
    """Choose the files that have the stem `wanted` or are in a folder of this name. Raises: MissingSplit if there is none."""
    taken, left = [], []
    for part in parts:
        found = [path for path in part.paths if _has_name(path, wanted.strip("/").lower())]
        taken += [replace(part, place=wanted, split=None, paths=found)] * bool(found)
        rest = sorted(set(part.paths) - set(found))
        left += [replace(part, paths=rest)] * bool(rest)
    if not taken:
        there = ", ".join(_describe_parts(parts))
        raise MissingSplit(f"{listing.folder}: no split {wanted!r}, {did_you_mean(wanted, KNOWN_NAMES)}there are {there}; name one of them")
    return Choice(listing, wanted, taken, left)


def _has_name(path: str, name: str) -> bool:
    folders, _, file = path.lower().rpartition("/")
    return name in folders.split("/") or f"{folders}/".startswith(f"{name}/") or name in (_stem(file), SHARD.sub("", _stem(file)))


def _find_parts(paths: list[str], folder: str, is_item: Callable[[str], bool]) -> Iterator[Part]:
    """Yield the files of a folder and of all folders below it, grouped by split and place. `paths`: the files, sorted."""
    folders, files = _level(paths, f"{folder}/" if folder else "")
    words = {path: find_split_name(os.path.basename(path)) for path in folders} | _names_of_files(files, is_item)
    accepted = _accepted(list(words.values()))
    loose: dict[str | None, list[str]] = {}
    for path in files:
        loose.setdefault(_split_if(words.get(path), accepted), []).append(path)
    for split, found in loose.items():
        yield Part(split, _join(folder, split or ""), found, is_folder=False, is_beside_splits=bool(accepted) and split is None)
    has_others = len({word.split for word in accepted}) > 1
    for path, inside in folders.items():
        split = _split_if(words[path], accepted)
        below = [] if has_others or (accepted and not split) else list(_find_parts(inside, path, is_item))
        if not accepted or any(part.split for part in below):
            yield from below
        else:
            yield Part(split, path, inside, is_beside_splits=split is None)


def _split_if(word: SplitName | None, accepted: set[SplitName]) -> str | None:
    return word.split if word in accepted and word else None


def _level(paths: list[str], prefix: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the children of a folder: (sub-folder -> all files below it, files). `prefix`: the folder's path and a `/`, or ""."""
    folders: dict[str, list[str]] = {}
    files: list[str] = []
    start = 0
    while start < len(paths):
        name, slash, _ = paths[start][len(prefix) :].partition("/")
        if slash:
            stop = bisect_left(paths, f"{prefix}{name}0", start)  # "0" follows "/"
            folders[prefix + name] = paths[start:stop]
            start = stop
        else:
            files.append(paths[start])
            start += 1
    return folders, files


def _names_of_files(files: list[str], is_item: Callable[[str], bool]) -> dict[str, SplitName | None]:
    """Return file -> the split in its name, or None. Single items count only if each of them has a split and not all have the same."""
    items = [path for path in files if is_item(path)]
    found = {path: find_split_name(_stem(path)) for path in files if not is_item(path)}
    words = list(takewhile(bool, (find_split_name(_stem(path)) for path in items)))  # stops early, since there may be millions
    if len(words) < len(items) or len({word.split for word in words if word}) == 1:
        return found | {"": None}
    return found | dict(zip(items, words, strict=True))


def _accepted(words: list[SplitName | None]) -> set[SplitName]:
    """Return those split names of the children of a folder that mark splits: all, if every child has one, or if half of them have one and
    train and another split are among them; else those without another word. Nothing if only train is left, unless every child has one."""
    found = {word for word in words if word}
    is_whole = all(words)
    is_plain = {"train"} < {word.split for word in found} and sum(map(bool, words)) * 2 >= len(words)
    if not is_whole and not is_plain:
        found = {word for word in found if word.is_whole_name}
    return found if is_whole or {word.split for word in found} - {"train"} else set()


def _stem(path: str) -> str:
    """Return the file's name without .gz and without its suffix."""
    return os.path.splitext(os.path.basename(path).removesuffix(".gz"))[0]


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


def _describe_parts(parts: list[Part]) -> list[str]:
    """Return for messages: `40 of train-clean-100`, `6 of dev-clean`. A split in more than five places (NAMED) gets one total."""
    described = []
    for split in dict.fromkeys(part.split for part in parts):
        own = [part for part in parts if part.split == split]
        if len(own) > NAMED:
            described.append(f"{sum(len(part.paths) for part in own):,} of {len(own):,} places of {split or 'no split'}")
        else:
            described += [f"{len(part.paths):,} {'of' if split else 'in'} {part.place or 'no sub-folder'}" for part in own]
    return described


def _explain_missing(parts: list[Part], wanted: str) -> str:
    if any(part.split for part in parts):
        return f"there are {', '.join(_describe_parts(parts))}; point --data at data that has one"
    return f"its {_num_files(sum(len(part.paths) for part in parts))} are one; put them into train/ and {wanted}/"


def _num_files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
