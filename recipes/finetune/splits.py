"""Chooses the labelled examples on which a classification probe is fitted and tested. Logs what is left out. Decodes nothing."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.config import Recipe
from recipes.data.labelled import Labelled
from recipes.data.progress import ItemProgress
from recipes.errors import ConfigError, MissingSplit
from recipes.modalities.registry import modality_of

TEST_SPLITS = ("test", "valid")
TEST_SHARE = 0.25
"""Share of train that is tested on if the data have no other split with usable labels."""
SEED = 0
NAMED_CLASSES = 5
"""Maximum number of classes that one line names."""
UNLABELLED = "no label (missing, empty or -1)"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Examples:
    """Some examples of one split of a labelled data set."""

    data: Labelled
    indices: list[int]
    name: str
    """Name of the split, for messages and results."""

    @property
    def classes(self) -> set[str]:
        """The classes of the examples."""
        return {label for index in self.indices if (label := self.data.labels[index]) is not None}

    def progress(self, label: str, log: Log) -> ItemProgress:
        """Return a new progress display for one pass over the examples. `label`: its title."""
        return ItemProgress(f"{label}, {self.name}", len(self.indices), unit="examples", log=log)


def open_splits(
    recipe: Recipe, path: str | None, label_column: str, prepared: Path, log: Log = print, *, remedy: str = "--label-column NAME"
) -> tuple[Examples, Examples]:
    """Return two sets of examples: those to fit on, then those to test on. The first are from split train, in a fixed shuffled order. The
    second are from split test; if it cannot be used, from valid; if neither can, a quarter of train is held back for the test. `remedy`:
    the option that names another label column, for messages.

    Raises: ConfigError if train has no labels or only one class.
    """
    modality = modality_of(recipe.modality, recipe.name)
    train = modality.open_labelled(recipe, path, "train", label_column, prepared)
    order = np.random.Generator(np.random.Philox(SEED)).permutation(len(train.labels)).tolist()
    fit = Examples(train, _labelled_indices(train, order, "train", log), "train")
    _check_train(fit, label_column, remedy)
    for split in TEST_SPLITS:
        try:
            test = modality.open_labelled(recipe, path, split, label_column, prepared)
        except MissingSplit:
            continue
        held = _test_examples(test, split, fit, log)
        if held.indices:
            return fit, held
    cut = int(len(fit.indices) * (1 - TEST_SHARE))
    log(f"no other split to test on: {TEST_SHARE:.0%} of train are held back")
    return Examples(train, fit.indices[:cut], "train"), Examples(train, fit.indices[cut:], f"held-back {TEST_SHARE:.0%} of train")


def _check_train(fit: Examples, label_column: str, remedy: str) -> None:
    data = fit.data
    if not fit.indices:
        there = f"column {label_column!r} gives none, the columns are {', '.join(data.columns)}; " if data.columns else ""
        raise ConfigError(
            f"{data.name}: {len(data.labels)} of {len(data.labels)} items of split train have {UNLABELLED}; {there}"
            f"give data with one folder per class, or {remedy}"
        )
    if len(fit.classes) < 2:
        raise ConfigError(f"{data.name}: the data have one class only, {fit.classes.pop()!r}; give data with two or more")


def _labelled_indices(data: Labelled, order: list[int], split: str, log: Log) -> list[int]:
    labelled = [index for index in order if data.labels[index] is not None]
    if 0 < len(labelled) < len(order):
        log(f"split {split}: {len(order) - len(labelled)} of {len(order)} examples are left out, {UNLABELLED} or no text")
    return labelled


def _test_examples(data: Labelled, split: str, fit: Examples, log: Log) -> Examples:
    """Return the examples of the split whose class also occurs in `fit`. Log what is left out, and why if no example is left."""
    order = list(range(len(data.labels)))
    labelled, known = _labelled_indices(data, order, split, log), fit.classes
    unseen = Counter(label for label in data.labels if label is not None and label not in known)
    if not labelled:
        log(f"split {split} is not used: none of its {len(order)} examples has a label")
    elif unseen:
        some = ", ".join(name for name, _ in unseen.most_common(NAMED_CLASSES)) + (", ..." if len(unseen) > NAMED_CLASSES else "")
        count = f"{unseen.total()} of {len(labelled)} examples are of {len(unseen)} classes that train lacks ({some})"
        log(f"split {split}: {count}" + (", left out" if unseen.total() < len(labelled) else ", so it is not used"))
    return Examples(data, [index for index in labelled if data.labels[index] in known], split)
