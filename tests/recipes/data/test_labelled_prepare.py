"""Labelled data become a prepared folder: splits, targets, and what is left out. A reader of numbers stands for all modalities."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.labelled_folder import load_info, load_split_of
from recipes.data.labelled_prepare import Encoded, RawSplit, find_prepared_labelled, prepare_labelled, settings_of_data, target_arrays
from recipes.errors import ConfigError, DataMismatch, MissingSplit
from tests.recipes.data.labelled_texts import recipe_of

Cells = Sequence[tuple[Any, Any]]
TRAIN: Cells = [(1, "b"), (2, "a"), (3, "b"), (4, "a")] * 5
VALID: Cells = [(5, "a"), (6, "b")]


class Words:
    """A reader of splits that are given as rows of (content, label). Implements Reader."""

    source = "words"

    def __init__(self, splits: dict[str, Cells], columns: Sequence[str] = ("text", "label"), shortest: int = 0) -> None:
        self._splits, self._columns, self._shortest = splits, columns, shortest

    def read(self, split: str) -> RawSplit:
        if split not in self._splits:
            raise MissingSplit(f"no split {split!r}")
        rows = self._splits[split]
        return RawSplit(split, [row[0] for row in rows], [row[1] for row in rows], None, self._columns, "label" in self._columns)

    def begin(self, folder: Path, contents: Sequence[Any]) -> dict[str, Any]:
        (folder / "begun.json").write_text(json.dumps(contents))
        return {}

    def encode(self, contents: Sequence[Any], targets: Sequence[Any] | None) -> Encoded:
        kept = [number for number, content in enumerate(contents) if content >= self._shortest]
        arrays = {"content": np.array([contents[number] for number in kept])}
        return Encoded(kept, [f"word {contents[number]}" for number in kept], arrays, {"too short": len(contents) - len(kept)})


def prepare(folder: Path, splits: dict[str, Cells], *settings: str, task: str = "classify", **options: Any) -> tuple[Path, list[str]]:
    """(prepared folder, lines of the log)."""
    lines: list[str] = []
    out = prepare_labelled(recipe_of("words", *settings, task=task), folder / "out", lambda recipe: Words(splits, **options), lines.append)
    return out, lines


def test_every_split_has_its_contents_labels_and_targets(tmp_path: Path) -> None:
    folder, lines = prepare(tmp_path, {"train": TRAIN, "valid": VALID, "test": [(7, "b")]})
    info = load_info(folder)
    assert info.counts == {"train": 20, "valid": 2, "test": 1} and info.values == {"objective.labels": ["a", "b"]}
    split = load_split_of(folder, "valid")
    assert [tuple(row) for row in split.rows] == [("word 5", "a"), ("word 6", "b")]
    assert split.arrays["target"].tolist() == [0, 1] and split.arrays["content"].tolist() == [5, 6]
    assert lines == ["prepared labelled samples: 20 train, 2 valid, 1 test", "objective.labels, from the training data: 2 (a, b)"]


def test_a_missing_validation_split_is_held_out_with_a_line(tmp_path: Path) -> None:
    rows = [(number, "ab"[number % 2]) for number in range(20)]
    folder, lines = prepare(tmp_path, {"train": rows}, "data.heldout_fraction=0.2")
    kept = [load_split_of(folder, name).arrays["content"].tolist() for name in ("train", "valid")]
    assert sorted(kept[0] + kept[1]) == list(range(20)) and len(kept[1]) == 4
    assert lines[:2] == ["no split 'valid': 4 of 20 training samples are held out instead", "no split 'test' to test on"]


@pytest.mark.parametrize("setting", ["data.valid_split=dev", "data.test_splits=test,dev"])
def test_a_split_that_a_setting_names_must_be_there(tmp_path: Path, setting: str) -> None:
    with pytest.raises(MissingSplit, match="no split 'dev'"):
        prepare(tmp_path, {"train": TRAIN, "test": VALID}, setting)
    assert not (tmp_path / "out").exists()


def test_a_missing_validation_split_is_refused_if_nothing_is_held_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"words: no split 'valid' to choose the best checkpoint on; --set data\.valid_split=NAME"):
        prepare(tmp_path, {"train": TRAIN}, "data.heldout_fraction=0")
    assert not (tmp_path / "out").exists()


def test_rows_without_label_or_content_are_left_out_and_counted(tmp_path: Path) -> None:
    folder, lines = prepare(tmp_path, {"train": [*TRAIN, (None, "a"), (8, None)], "valid": VALID})
    assert load_info(folder).counts["train"] == 20
    assert lines[0] == "split train: left out 1 without content and 1 without a label, of 22 rows"


@pytest.mark.parametrize(
    ("splits", "settings", "complaint"),
    [
        (
            {"train": [*TRAIN, *[(None, "a")] * 4]},
            (),
            "words: split train: 4 without content, of 24 rows, more than the 3 that data.max_bad_fraction 0.01 allows; fix or remove them",
        ),
        (
            {"train": TRAIN},
            ("data.test_splits=test,valid",),
            "data.test_splits names valid, which is scored anyway; --set data.test_splits=NAME names others",
        ),
        ({"train": []}, (), "words: split train has no sample with a label; --set data.label_column=NAME chooses one"),
        ({"train": [(1, "a")] * 3}, (), "all 2 training samples are of one class, 'a'; give data with two or more"),
        (
            {"train": TRAIN, "valid": [*VALID, (1, "z")]},
            (),
            "words: split valid has classes that the training split lacks: 'z' (1 times); remove these samples, or train on data that "
            "have them",
        ),
        (
            {"train": TRAIN, "valid": VALID, "test": [(1, "z"), (2, "z"), (3, "y")]},
            (),
            "words: split test has classes that the training split lacks: 'z' (2 times), 'y' (1 times); remove these samples, or train on "
            "data that have them",
        ),
        (
            {"train": TRAIN},
            ("objective.labels=a,c",),
            "class 'b' of 9 training samples is not in objective.labels, which has 2 classes; the data have 2",
        ),
    ],
    ids=["without_content", "test_named_valid", "empty", "one_class", "unseen_in_valid", "unseen_in_test", "given_labels"],
)
def test_data_that_cannot_be_used_are_one_line(tmp_path: Path, splits: dict[str, Cells], settings: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(tmp_path, splits, *settings)
    assert str(caught.value) == complaint and not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_missing_label_column_names_those_that_are_there(tmp_path: Path, split: str) -> None:
    class Partly(Words):
        def read(self, name: str) -> RawSplit:
            return super().read(name)._replace(has_labels=name != split)

    reader = Partly({"train": TRAIN, "valid": VALID}, ["text", "kind"])
    with pytest.raises(ConfigError, match=f"words: no column 'label' of labels in split {split}, there are text, kind; --set data.label_"):
        prepare_labelled(recipe_of("words"), tmp_path / "out", lambda recipe: reader)


def test_a_nan_or_a_word_in_regression_names_its_row(tmp_path: Path) -> None:
    for cell, complaint in ((float("nan"), "row 2 of split train: nan is no number to learn"), ("x", "row 2 of split train: 'x' is no")):
        with pytest.raises(ConfigError, match=complaint):
            prepare(tmp_path, {"train": [(1, 0.5), (2, cell)]}, task="regress")


def test_numbers_are_float32_targets(tmp_path: Path) -> None:
    folder, _ = prepare(tmp_path, {"train": [(1, "1"), (2, 2.5), (3, 3)], "valid": [(4, 1)]}, task="regress")
    assert load_split_of(folder, "train").arrays["target"].dtype == np.float32
    assert load_split_of(folder, "train").arrays["target"].tolist() == [1.0, 2.5, 3.0]


def test_a_test_split_without_labels_is_predicted_only(tmp_path: Path) -> None:
    folder, lines = prepare(tmp_path, {"train": TRAIN, "valid": VALID, "test": [(1, None), (2, "-1"), (None, None)]})
    assert load_info(folder).unlabelled == ["test"] and "target" not in load_split_of(folder, "test").arrays
    assert [row.label for row in load_split_of(folder, "test").rows] == [None, None]
    assert "split test has no labels: it is predicted, not scored, 1 without content left out" in lines


def test_samples_that_the_reader_leaves_out_lose_their_targets_too(tmp_path: Path) -> None:
    folder, lines = prepare(tmp_path, {"train": TRAIN, "valid": VALID}, shortest=2)
    assert load_split_of(folder, "train").arrays["target"].tolist() == [0, 1, 0] * 5
    assert "split train: left out 5 of 20 samples too short" in lines
    with pytest.raises(ConfigError, match="words: split train has no sample that can be used"):
        prepare(tmp_path / "none", {"train": TRAIN, "valid": VALID}, shortest=9)


def test_a_number_of_training_samples_is_drawn_always_the_same(tmp_path: Path) -> None:
    rows = [(number, "ab"[number % 2]) for number in range(30)]
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        folder, _ = prepare(tmp_path / name, {"train": rows, "valid": VALID}, "data.max_train_samples=12")
        kept.append(load_split_of(folder, "train").arrays["content"].tolist())
    assert kept[0] == kept[1] and len(set(kept[0])) == 12 and kept[0] != list(range(12))


def test_the_held_out_samples_are_the_same_whatever_number_is_trained_on(tmp_path: Path) -> None:
    rows, held = [(number, "ab"[number % 2]) for number in range(30)], []
    for count in (0, 4):
        (tmp_path / f"{count}").mkdir()
        folder, _ = prepare(tmp_path / f"{count}", {"train": rows}, f"data.max_train_samples={count}")
        held.append(load_split_of(folder, "valid").arrays["content"].tolist())
        assert load_info(folder).counts == {"train": count or 27, "valid": 3}
    assert held[0] == held[1]


def test_one_sample_of_each_class_is_drawn_first_and_the_setting_is_named_if_a_class_is_not_drawn(tmp_path: Path) -> None:
    rows = [(number, chr(ord("a") + min(number, 9))) for number in range(100)]
    folder, _ = prepare(tmp_path, {"train": rows, "valid": VALID, "test": rows}, "data.max_train_samples=12")
    assert [row.label for row in load_split_of(folder, "train").rows] == list("abcdefghi") + ["j"] * 3
    (tmp_path / "few").mkdir()
    with pytest.raises(ConfigError, match=r"split test has classes that the training split lacks \(data\.max_train_samples=9\): "):
        prepare(tmp_path / "few", {"train": rows, "valid": VALID, "test": rows}, "data.max_train_samples=9")


def test_an_existing_folder_is_used_and_other_settings_are_a_mismatch(tmp_path: Path) -> None:
    folder, _ = prepare(tmp_path, {"train": TRAIN, "valid": VALID})
    assert prepare(tmp_path, {})[0] == folder, "no reader is opened"
    assert find_prepared_labelled(recipe_of("words", "objective.labels=a,b", "data.max_bad_fraction=0.5"), folder) == folder
    for setting, complaint in (
        ("data.label_column=kind", "prepared with data.label_column label, now kind"),
        ("data.valid_split=dev", "prepared with data.valid_split valid, now dev"),
        ("objective.labels=b,a", r"prepared with objective\.labels of 2 values \(a, b\), now 2 \(b, a\); remove it"),
        ("objective.labels=a,b,c", r"prepared with objective\.labels of 2 values \(a, b\), now 3 \(a, b, c\)"),
    ):
        with pytest.raises(DataMismatch, match=complaint):
            prepare(tmp_path, {}, setting)


def test_settings_that_change_no_sample_are_not_compared() -> None:
    names = settings_of_data(recipe_of("words"))
    assert {"data.path", "data.valid_split", "data.label_column", "objective.kind"} <= names.keys() and "data.max_bad_fraction" not in names


def test_transcripts_are_stored_in_a_row_with_their_ends() -> None:
    arrays = target_arrays([[5, 6], [], [7]])
    assert arrays["letters"].tolist() == [5, 6, 7] and arrays["letter_ends"].tolist() == [2, 2, 3]
