"""Which files of a folder are training data, by the names of folders and files: `train-clean-100/`, `images/val2017/`,
`Test-00000-of-00003.parquet`, at any depth. Opens no file.

A level is what lies side by side in one folder. A name with a split's word in it counts where all names of the level have one, or half
of them, with training and other data among them. A name that is the word alone (`test/`, `val2017/`) counts beside any others, but
`train/` only where other splits are. So `bullet_train/` and `train/` beside other classes are classes, and `test/` beside them is a
question for the user. Below splits that lie side by side names mean nothing any more: train/test/ beside val/ is a class. Names of single
recordings and images count where all of their level have one.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from recipes.data.folder import NAMED, Listing, count_suffixes, name_some, printable
from recipes.errors import ConfigError, MissingSplit

SPLITS = {
    "train": ("train", "training", "trainset", "trainval"),
    "valid": ("valid", "validation", "val", "dev", "development", "validationset", "valset", "devset", "heldout", "holdout"),
    "test": ("test", "testing", "testset", "devtest", "eval", "evaluation", "evalset"),
}
"""What a split is called; those that `datasets` knows are among them."""
ALL = "all"
"""The name of everything together."""
SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")


class Word(NamedTuple):
    """What a name says of its split, and whether it says nothing else."""

    split: str
    is_alone: bool


@dataclass(frozen=True)
class Part:
    """Files that lie together and are of one split; None: no name says of which."""

    split: str | None
    place: str
    """Their folder; of files that are named for a split, the folder and the split."""
    paths: list[str]
    is_folder: bool = True
    is_beside: bool = False
    """No name says of which split, yet splits lie beside it."""

    def label(self, path: str, base: str) -> str | None:
        """Class of one of the files, see Choice."""
        is_named_folder = self.is_folder and self.split is not None
        above = os.path.dirname(self.place) if is_named_folder else os.path.dirname(path)
        below = os.path.dirname(path.removeprefix(f"{self.place}/")) if is_named_folder else ""
        inside = above.removeprefix(base).removeprefix("/") if f"{above}/".startswith(f"{base}/") else above
        return _join(inside, below) or None


@dataclass(frozen=True)
class Choice:
    """What is read of a folder, and what is not."""

    listing: Listing
    name: str
    taken: list[Part]
    left: list[Part]

    @cached_property
    def paths(self) -> list[str]:
        """Those that are read, sorted, each once."""
        return self.listing.each_once(sorted(path for part in self.taken for path in part.paths))

    @property
    def root(self) -> str:
        """The split's folder, where all that is read lies in one beside those of other splits; else ""."""
        part = self.taken[0]
        is_only = len(self.taken) == 1 and bool(self.left) and part.is_folder and part.split is not None
        return part.place if is_only and os.path.dirname(part.place) == self._base else ""

    @property
    def labels(self) -> list[str | None] | None:
        """Class of each path: its folder, without what leads to the splits and without a split's own name. None: its folder as it is."""
        if self.root or not any(part.split for part in self.taken):
            return None
        found = {path: part.label(path, self._base) for part in self.taken for path in part.paths}
        return [found[path] for path in self.paths]

    @cached_property
    def _base(self) -> str:
        """The folder that the splits lie in."""
        places = [os.path.dirname(part.place) for part in (*self.taken, *self.left) if part.split]
        return os.path.commonpath(places) if places and all(places) else ""

    def say(self, others: Sequence[str]) -> str:
        """One line of what is read and what is not; `others` are files of kinds that are not read."""
        num_links = sum(len(part.paths) for part in self.taken) - len(self.paths)
        left = _say_parts(self.left)
        left += [count_suffixes(others)] * bool(others)
        left += [f"{len(self.listing.hidden):,} hidden"] * bool(self.listing.hidden)
        left += [f"{num_links:,} links to files that are read anyway"] * bool(num_links)
        left = [", ".join(left)] * bool(left) + [name_some(self.listing.passed_over, "; ")] * bool(self.listing.passed_over)
        places = name_some([part.place for part in self.taken if part.split and self.name != ALL])
        num_loose = sum(len(part.paths) for part in self.taken if not part.split) * bool(places)
        taken = f"{self.name}: {_num_files(len(self.paths))} ({count_suffixes(self.paths)}){' of ' * bool(places)}{places}"
        taken += f" and {num_loose:,} that are named for no split" * bool(num_loose)
        return printable("; left out: ".join([taken, "; ".join(left)] if left else [taken]))


def split_of(name: str) -> str:
    """train, valid or test for each of their names, in any case; any other name is its own."""
    lower = name.lower()
    return next((split for split, words in SPLITS.items() if lower in words), name)


def word_of(name: str) -> Word | None:
    """The split that a folder's name or a file's stem speaks of; the first, if several."""
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", SHARD.sub("", name))
    words = [split_of(word) for word in re.findall(r"[^\W\d_]+", bare.lower())]
    found = next((word for word in words if word in SPLITS), None)
    return None if found is None else Word(found, len(words) == 1)


def choose_files(listing: Listing, paths: list[str], wanted: str | None, is_item: Callable[[str], bool]) -> Choice:
    """Those of `paths` (sorted) that are of the split `wanted`, or whose folder or stem has that name; ALL takes every one. None takes the
    training data where names tell, and everything where no name tells. `is_item` says whether a file is one single item.

    Raises: MissingSplit; ConfigError where the names leave it open.
    """
    parts = list(_find_parts(paths, "", is_item))
    if wanted is None:
        return _training_data(listing, parts)
    asked = split_of(wanted)
    is_whole = asked == "train" and not _has_held_out(parts)  # nobody has split these data
    if is_whole or wanted.lower() == ALL:
        return Choice(listing, ALL, parts, [])
    if asked not in SPLITS:
        return _named(listing, parts, wanted)
    found = [part for part in parts if part.split == asked]
    if not found and asked == "train":
        found = [part for part in parts if part.split is None]
    if not found:
        raise MissingSplit(f"{listing.folder}: no split {wanted!r}, {_say_missing(parts, wanted)}")
    return Choice(listing, wanted, found, [part for part in parts if part not in found])


def choose_names(name: str, splits: Sequence[str], wanted: str | None) -> list[str]:
    """Those of the named splits of a stored data set that are wanted; None is train, ALL all of them.

    Raises: MissingSplit where there is none.
    """
    if wanted is not None and wanted.lower() == ALL:
        return list(splits)
    asked = wanted or "train"
    found = [asked] if asked in splits else [one for one in splits if split_of(one) == split_of(asked)]
    if not found:
        raise MissingSplit(f"{name}: no split {asked!r}, there are {', '.join(splits)}; point --data at data that has one")
    return found


def check_file(path: Path, wanted: str | None) -> None:
    """One file that is given by its name is the split train, and all there is. Raises: MissingSplit where another one is wanted."""
    if wanted is not None and wanted.lower() != ALL and split_of(wanted) != "train":
        raise MissingSplit(f"{path}: one file is one split, and {wanted!r} was asked for; give the file of that split")


def _training_data(listing: Listing, parts: list[Part]) -> Choice:
    if not _has_held_out(parts):
        return Choice(listing, ALL, parts, [])
    if not any(part.split == "train" for part in parts) or any(part.is_beside for part in parts):
        train = "data.split=train, " * any(part.split in ("train", None) for part in parts)
        raise ConfigError(
            f"{listing.folder}: its names do not tell what is training data, there are {', '.join(_say_parts(parts))}; "
            f"--set {train}data.split={ALL} or the name of a folder in it"
        )
    taken = [part for part in parts if part.split in ("train", None)]
    return Choice(listing, "train", taken, [part for part in parts if part not in taken])


def _has_held_out(parts: list[Part]) -> bool:
    return any(part.split not in ("train", None) for part in parts)


def _named(listing: Listing, parts: list[Part], wanted: str) -> Choice:
    """The files in folders of that name, and of that stem."""
    taken, left = [], []
    for part in parts:
        found = [path for path in part.paths if _has_name(path, wanted.strip("/").lower())]
        taken += [replace(part, place=wanted, split=None, paths=found)] * bool(found)
        rest = sorted(set(part.paths) - set(found))
        left += [replace(part, paths=rest)] * bool(rest)
    if not taken:
        raise MissingSplit(f"{listing.folder}: no split {wanted!r}, there are {', '.join(_say_parts(parts))}; name one of them")
    return Choice(listing, wanted, taken, left)


def _has_name(path: str, name: str) -> bool:
    folders, _, file = path.lower().rpartition("/")
    return name in folders.split("/") or f"{folders}/".startswith(f"{name}/") or name in (_stem(file), SHARD.sub("", _stem(file)))


def _find_parts(paths: list[str], folder: str, is_item: Callable[[str], bool]) -> Iterator[Part]:
    """The parts of one folder's files, which are sorted."""
    folders, files = _level(paths, f"{folder}/" if folder else "")
    words = {path: word_of(os.path.basename(path)) for path in folders} | _words_of_files(files, is_item)
    believed = _believed(list(words.values()))
    loose: dict[str | None, list[str]] = {}
    for path in files:
        loose.setdefault(_split_if(words.get(path), believed), []).append(path)
    for split, found in loose.items():
        yield Part(split, _join(folder, split or ""), found, is_folder=False, is_beside=bool(believed) and split is None)
    has_others = len({word.split for word in believed}) > 1
    for path, inside in folders.items():
        split = _split_if(words[path], believed)
        below = [] if has_others or (believed and not split) else list(_find_parts(inside, path, is_item))
        if not believed or any(part.split for part in below):
            yield from below
        else:
            yield Part(split, path, inside, is_beside=split is None)


def _split_if(word: Word | None, believed: set[Word]) -> str | None:
    return word.split if word in believed and word else None


def _level(paths: list[str], prefix: str) -> tuple[dict[str, list[str]], list[str]]:
    """What lies side by side: each sub-folder with all files below it, and files."""
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


def _words_of_files(files: list[str], is_item: Callable[[str], bool]) -> dict[str, Word | None]:
    """Single items have a say together only: all of them name a split, and not all the same."""
    items = [path for path in files if is_item(path)]
    found = {path: word_of(_stem(path)) for path in files if not is_item(path)}
    words = list(takewhile(bool, (word_of(_stem(path)) for path in items)))  # seldom more than none: there may be millions
    if len(words) < len(items) or len({word.split for word in words if word}) == 1:
        return found | {"": None}
    return found | dict(zip(items, words, strict=True))


def _believed(words: list[Word | None]) -> set[Word]:
    """Those names of a level that are taken at their word (see the module)."""
    found = {word for word in words if word}
    is_whole = all(words)
    is_plain = {"train"} < {word.split for word in found} and sum(map(bool, words)) * 2 >= len(words)
    if not is_whole and not is_plain:
        found = {word for word in found if word.is_alone}
    return found if is_whole or {word.split for word in found} - {"train"} else set()


def _stem(path: str) -> str:
    """The file's name without .gz and without the suffix of its kind."""
    return os.path.splitext(os.path.basename(path).removesuffix(".gz"))[0]


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


def _say_parts(parts: list[Part]) -> list[str]:
    """`40 of train-clean-100`, `6 of dev-clean`; one sum for each split that lies in many places."""
    said = []
    for split in dict.fromkeys(part.split for part in parts):
        own = [part for part in parts if part.split == split]
        if len(own) > NAMED:
            said.append(f"{sum(len(part.paths) for part in own):,} of {len(own):,} places of {split or 'no split'}")
        else:
            said += [f"{len(part.paths):,} {'of' if split else 'in'} {part.place or 'no sub-folder'}" for part in own]
    return said


def _say_missing(parts: list[Part], wanted: str) -> str:
    if any(part.split for part in parts):
        return f"there are {', '.join(_say_parts(parts))}; point --data at data that has one"
    return f"its {_num_files(sum(len(part.paths) for part in parts))} are one; put them into train/ and {wanted}/"


def _num_files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
