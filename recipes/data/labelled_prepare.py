"""Turns labelled data of any modality into a prepared folder: splits, targets, what is left out. A reader of the modality reads the splits
and encodes the samples (labelled_text_reader.py and its neighbours)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from recipes.config import Recipe
from recipes.data.folder import format_names, resolve_data_path
from recipes.data.labelled_folder import (
    TRAIN,
    VALID,
    LabelledInfo,
    LabelledRow,
    Log,
    StoredSplit,
    find_labelled,
    finish_folder,
    in_random_order,
    load_info,
    num_held_out,
    save_split,
)
from recipes.data.media import allowed_bad
from recipes.data.targets import TargetKind, named, targets_of
from recipes.errors import ConfigError, DataMismatch, MissingSplit
from recipes.labelled_config import LabelledDataConfig
from recipes.settings import dotted, recipe_to_dict
from recipes.system.atomic_folder import atomic_folder

NO_LABEL, NO_CONTENT = "without a label", "without content"


class RawSplit(NamedTuple):
    """One split as it is in the data: for each sample its content (None: there is none) and the cell of its label."""

    name: str
    contents: Sequence[Any]
    cells: Sequence[Any]
    class_names: Sequence[str] | None
    """Names of numbered classes; None if the cells have the names."""
    columns: Sequence[str]
    has_labels: bool
    """False if there is no column of labels."""


class Encoded(NamedTuple):
    """The samples of a split that can be used."""

    kept: list[int]
    """Index of each in the samples that were given."""
    shown: list[str]
    """Text or location of each, for the predictions."""
    arrays: Mapping[str, np.ndarray]
    left_out: Mapping[str, int]
    """Reason -> number of samples that cannot be used for it."""


class Reader(Protocol):
    """Reads and encodes the labelled data of one modality."""

    source: str
    """Path or hub name of the data."""

    def read(self, split: str) -> RawSplit:
        """Read a split. Raises: ConfigError; MissingSplit if there is none."""

    def begin(self, folder: Path, contents: Sequence[Any]) -> dict[str, Any]:
        """Write what all splits need, such as a tokenizer, into the folder. `contents`: those of the training samples. Return fields of
        LabelledInfo."""

    def encode(self, contents: Sequence[Any], targets: Sequence[Any] | None) -> Encoded:
        """Encode the samples of a split. `targets`: of each; None if the split has no labels, so that no sample is left out."""


Check = Callable[[Path], None]
"""Checks that an existing prepared folder fits. Raises: DataMismatch if it does not."""


def prepare_labelled(
    recipe: Recipe,
    out_dir: Path,
    open_reader: Callable[[Recipe], Reader],
    log: Log = lambda line: None,
    *,
    check_fits: Check = lambda folder: None,
) -> Path:
    """Return the prepared folder for the recipe's labelled data: an existing one, or a new one at out_dir. `open_reader` is called only
    for a new one, `check_fits` only with an existing one. Raises: ConfigError if the data cannot be used; DataMismatch if an existing
    folder has other data."""
    found = find_prepared_labelled(recipe, out_dir, check_fits)
    if found is not None:
        return found
    reader = open_reader(recipe)
    with atomic_folder(out_dir) as folder:
        _Preparation(recipe, reader, log).run(folder, settings_of_data(recipe))
    return out_dir


def find_prepared_labelled(recipe: Recipe, out_dir: Path, check_fits: Check = lambda folder: None) -> Path | None:
    """Return the existing prepared folder for the recipe: the one that data.path names, or an earlier one at out_dir; None if one must be
    made. Raises: ConfigError if a folder is damaged; DataMismatch if it has other data, or other classes than the recipe names."""
    found = find_labelled(recipe.data.path, out_dir, settings_of_data(recipe))
    if found is None:
        return None
    check_fits(found)
    own = dotted(recipe_to_dict(recipe))
    for name, value in load_info(found).values.items():
        if own.get(name) and list(own[name]) != list(value):
            raise DataMismatch(
                f"{found}: prepared with {name} of {len(value)} values ({format_names([str(one) for one in value])}), now {len(own[name])} "
                f"({format_names([str(one) for one in own[name]])}); remove it or choose another place"
            )
    return found


def settings_of_data(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that decide what a prepared folder has, by their dotted names."""
    assert isinstance(recipe.data, LabelledDataConfig)
    others = recipe.data.unprepared
    data = {f"data.{name}": value for name, value in recipe_to_dict(recipe)["data"].items() if name not in others}
    path = recipe.data.path
    place = resolve_data_path(path) if path is not None else None
    return data | {"data.path": str(place) if place else path, "objective.kind": recipe.objective.kind}


class _Preparation:
    """The steps from raw splits to a prepared folder. run() takes all of them, in order."""

    def __init__(self, recipe: Recipe, reader: Reader, log: Log) -> None:
        assert isinstance(recipe.data, LabelledDataConfig)
        self._data: LabelledDataConfig = recipe.data
        self._reader, self._log = reader, log
        self._targets: TargetKind = targets_of(recipe.objective)
        self._max_bad: float = recipe.data.max_bad_fraction

    def run(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Write all splits and prepared.json into the folder. All labels are checked before any sample is encoded. Raises: ConfigError."""
        train, valid = self._training()
        values = self._targets.fit(train.labels or ())
        splits = [train, valid, *self._tests()]
        targets = {split.name: self._encode_labels(split) for split in splits if split.labels is not None}
        fields = self._reader.begin(folder, splits[0].contents)
        counts = {split.name: self._save(folder, split, targets.get(split.name)) for split in splits}
        unlabelled = [split.name for split in splits if split.labels is None]
        info = LabelledInfo(self._data.kind, self._reader.source, dict(settings), "", counts, dict(values), unlabelled)
        finish_folder(folder, replace(info, **fields))
        self._log(f"prepared labelled samples: {', '.join(f'{count} {name}' for name, count in counts.items())}")
        for name, value in values.items():
            self._log(f"{name}, from the training data: {len(value)} ({format_names([str(one) for one in value])})")

    def _find(self, name: str) -> RawSplit | None:
        """Read a split; None if it is missing and has a default name. Raises: ConfigError; MissingSplit if it was asked for."""
        try:
            return self._reader.read(name)
        except MissingSplit:
            if name not in self._data.may_be_missing:
                raise
            return None

    def _usable(self, split: RawSplit) -> tuple[list[Any], list[Any]]:
        """Return contents and labels of the samples that have both. Raises: ConfigError if too few have, or if a label is none of the
        target's kind."""
        check_has_labels(split, self._data)
        contents, labels, missing = list[Any](), list[Any](), Counter[str]()
        for content, label in zip(split.contents, self._parse(split), strict=True):
            missing.update([NO_CONTENT] * (content is None) + [NO_LABEL] * (content is not None and label is None))
            if content is not None and label is not None:
                contents.append(content)
                labels.append(label)
        self._report_missing(split, missing)
        if not labels:
            raise ConfigError(
                f"{self._reader.source}: split {split.name} has no sample with a label; --set data.label_column=NAME chooses one"
            )
        return contents, labels

    def _parse(self, split: RawSplit) -> list[Any]:
        """Return the label of each row; None for an empty cell. Raises: ConfigError with the number of a row, from 1, that has no label
        of the target's kind."""
        labels = []
        for number, cell in enumerate(split.cells, start=1):
            try:
                labels.append(self._targets.parse(cell, split.class_names))
            except ConfigError as error:
                raise ConfigError(f"{self._reader.source}: row {number} of split {split.name}: {error}") from None
        return labels

    def _report_missing(self, split: RawSplit, missing: Counter[str]) -> None:
        if not missing:
            return
        total, allowed = len(split.cells), allowed_bad(len(split.cells), self._max_bad)
        found = " and ".join(f"{count} {reason}" for reason, count in missing.items())
        if missing.total() > allowed:
            raise ConfigError(
                f"{self._reader.source}: split {split.name}: {found}, of {total} rows, more than the {allowed} that data.max_bad_fraction "
                f"{self._max_bad:g} allows; fix or remove them"
            )
        self._log(f"split {split.name}: left out {found}, of {total} rows")

    def _training(self) -> "list[_Usable]":
        """Return the splits train and valid. If the data have no validation split, a part of the training split is held out. Raises:
        ConfigError; MissingSplit if the missing one was asked for."""
        contents, labels = self._usable(self._reader.read(self._data.split))
        order, valid = in_random_order(labels), self._find(self._data.valid_split)
        num_held = self._num_held_out(len(order)) if valid is None else 0
        num_trained = min(len(order) - num_held, self._data.max_train_samples or len(order))

        def part(name: str, chosen: Sequence[int]) -> _Usable:
            return _Usable(name, [contents[number] for number in sorted(chosen)], [labels[number] for number in sorted(chosen)])

        held = _Usable(VALID, *self._usable(valid)) if valid else part(VALID, order[len(order) - num_held :])
        return [part(TRAIN, order[:num_trained]), held]

    def _num_held_out(self, num_samples: int) -> int:
        """Return the number of training samples that are held out for want of a validation split, and log it. Raises: ConfigError if
        data.heldout_fraction is 0."""
        fraction, name = self._data.heldout_fraction, self._data.valid_split
        if not fraction:
            raise ConfigError(
                f"{self._reader.source}: no split {name!r} to choose the best checkpoint on; --set data.valid_split=NAME, or --set "
                "data.heldout_fraction=0.1 holds out a part of the training split"
            )
        count = num_held_out(num_samples, fraction)
        self._log(f"no split {name!r}: {count} of {num_samples} training samples are held out instead")
        return count

    def _tests(self) -> "Iterator[_Usable]":
        """Yield the test splits that are there. Raises: ConfigError if one has the name of the split train or valid; MissingSplit if one
        that was asked for is missing."""
        for name in self._data.test_splits:
            if name in (TRAIN, VALID):
                raise ConfigError(f"data.test_splits names {name}, which is scored anyway; --set data.test_splits=NAME names others")
            split = self._find(name)
            if split is None:
                self._log(f"no split {name!r} to test on")
                continue
            if split.has_labels and any(label is not None for label in self._parse(split)):
                yield _Usable(name, *self._usable(split))
                continue
            contents = [content for content in split.contents if content is not None]
            num_empty = len(split.contents) - len(contents)
            without = f", {num_empty} {NO_CONTENT} left out" if num_empty else ""
            self._log(f"split {name} has no labels: it is predicted, not scored{without}")
            yield _Usable(name, contents, None)

    def _save(self, folder: Path, split: "_Usable", targets: Sequence[Any] | None) -> int:
        """Encode and write a split. Return its number of samples."""
        encoded = self._reader.encode(split.contents, targets)
        for reason, count in encoded.left_out.items():
            if count:
                self._log(f"split {split.name}: left out {count} of {len(split.contents)} samples {reason}")
        if not encoded.kept:
            raise ConfigError(f"{self._reader.source}: split {split.name} has no sample that can be used")
        own = [None if split.labels is None else split.labels[number] for number in encoded.kept]
        rows = [LabelledRow(shown, label) for shown, label in zip(encoded.shown, own, strict=True)]
        stored = {} if targets is None else target_arrays([targets[number] for number in encoded.kept])
        save_split(folder, split.name, StoredSplit(rows, {**encoded.arrays, **stored}))
        return len(rows)

    def _encode_labels(self, split: "_Usable") -> list[Any]:
        unknown = list[str]()
        targets = [self._targets.encode(label, unknown) for label in split.labels or ()]
        if unknown:
            few = f" (data.max_train_samples={self._data.max_train_samples})" if self._data.max_train_samples else ""
            found = f"split {split.name} has {self._targets.what}{few}: {named(unknown)}"
            self._log(self._targets.complain(f"{self._reader.source}: {found}"))
        return targets


class _Usable(NamedTuple):
    """The samples of a split that have content, and their labels (None: the split has none)."""

    name: str
    contents: Sequence[Any]
    labels: Sequence[Any] | None


def check_has_labels(split: RawSplit, data: LabelledDataConfig) -> None:
    """Check that a split has labels. Raises: ConfigError that names its columns if it has not."""
    if not split.has_labels:
        there = f"there are {', '.join(split.columns)}; " if split.columns else "and no folder for each class; "
        raise ConfigError(
            f"{data.path}: no column {data.label_column!r} of labels in split {split.name}, {there}--set data.label_column=NAME chooses one"
        )


def target_arrays(targets: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return targets as arrays: `target` with one number per sample; for transcripts `letters`, all in a row, and `letter_ends`."""
    if targets and isinstance(targets[0], list):
        ends = np.cumsum([len(letters) for letters in targets])
        return {"letters": np.array([one for letters in targets for one in letters], dtype=np.int32), "letter_ends": ends.astype(np.int64)}
    is_number = bool(targets) and isinstance(targets[0], float)
    return {"target": np.array(targets, dtype=np.float32 if is_number else np.int64)}
