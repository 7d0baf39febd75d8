"""Labelled recordings are prepared without decoding: splits, lengths, what is left out of training, and what is said about it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.labelled_folder import load_info, load_split_of
from recipes.data.labelled_speech_reader import LabelledSpeechReader, digest_of, frames_needed, open_recordings
from recipes.errors import ConfigError
from recipes.supervised_config import SPECIAL_LETTERS
from tests.recipes.data.labelled_recordings import LENGTHS, labelled_recipe, prepare, write_data, write_split
from tests.recipes.data.recordings import RATE, write_recordings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits train and test."""
    return write_data(tmp_path_factory.mktemp("data"))


def test_splits_have_places_lengths_and_letters_and_a_part_of_training_is_held_out(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    info = load_info(folder := prepare(labelled_recipe(data), tmp_path / "prepared", lines))
    assert info.counts == {"train": 18, "valid": 6, "test": 6} and info.source == str(data)
    assert tuple(info.values["objective.alphabet"]) == (*SPECIAL_LETTERS, *"ghilow")
    train, valid, test = (load_split_of(folder, name) for name in info.counts)
    assert sorted([*train.arrays["item"], *valid.arrays["item"]]) == list(range(24))
    for split in (train, valid, test):
        assert split.arrays["length"].tolist() == [LENGTHS[item] for item in split.arrays["item"]]
        assert [row.shown for row in split.rows] == [f"row {item + 1}" for item in split.arrays["item"]]
        assert [row.label for row in split.rows] == [("low", "high")[item % 2] for item in split.arrays["item"]]
    assert [str(split.arrays["split"]) for split in (train, valid, test)] == ["train", "train", "test"]
    assert any("no split 'valid': 6 of 24 training samples are held out instead" in line for line in lines)


def test_classes_come_from_a_column_or_from_folders(data: Path, tmp_path: Path) -> None:
    info = load_info(prepare(labelled_recipe(data, "classify"), tmp_path / "column"))
    assert info.values == {"objective.labels": ["0", "1"]}
    for number, name in enumerate(("no", "yes")):
        write_recordings(tmp_path / "raw" / name, [400 + number] * 4)
    folder = prepare(labelled_recipe(tmp_path / "raw", "classify"), tmp_path / "folders")
    assert load_info(folder).values == {"objective.labels": ["no", "yes"]}
    shown = {row.shown: row.label for row in load_split_of(folder, "train").rows}
    assert shown.items() <= {f"{name}/00{number}.wav": name for name in ("no", "yes") for number in range(4)}.items()


@pytest.mark.parametrize(("letters", "frames"), [([], 0), ([7], 1), ([7, 8], 2), ([7, 7], 3), ([7, 7, 7, 8], 6)])
def test_equal_neighbours_need_a_blank_between_them(letters: list[int], frames: int) -> None:
    assert frames_needed(letters) == frames


def test_what_cannot_be_trained_on_is_left_out_of_training_counted_and_kept_in_tests(tmp_path: Path) -> None:
    lengths = [1000, 2000, 1000, 30, 1000, 1000, 1000, 1000]  # 30 samples: one frame of 20, and 10 samples more: 2 frames
    said = ["low", "low", "low", "oo", *["low"] * 4]  # two equal letters need three frames
    for split in ("train", "valid", "test"):
        write_split(tmp_path / "data", split, lengths, text=said)
    lines: list[str] = []
    recipe = labelled_recipe(tmp_path / "data", max_seconds=0.12)
    frontend: Any = recipe.frontend
    assert frontend.num_frames(30) == 2
    info = load_info(folder := prepare(recipe, tmp_path / "prepared", lines))
    assert info.counts == {"train": 6, "valid": 8, "test": 8}
    assert load_split_of(folder, "train").arrays["item"].tolist() == [0, 2, 4, 5, 6, 7]
    assert "split train: left out 1 of 8 samples longer than data.max_seconds 0.12" in lines
    assert "split train: left out 1 of 8 samples with a transcript that needs more frames than they have" in lines
    assert sum("split test: 1 of 8 recordings with a transcript that needs more frames" in line for line in lines) == 1


def test_a_recording_of_a_class_is_cropped_and_not_left_out(tmp_path: Path) -> None:
    recipe = labelled_recipe(write_split(tmp_path / "data", "train", [1000, 2000] * 4), "classify", max_seconds=1500 / RATE)
    train = load_split_of(prepare(recipe, tmp_path / "prepared"), "train")
    assert set(train.arrays["length"].tolist()) == {1000, 1500}


def test_letters_outside_of_a_given_alphabet_are_named(data: Path, tmp_path: Path) -> None:
    recipe = labelled_recipe(data)
    recipe = replace(recipe, objective=replace(recipe.objective, alphabet=(*SPECIAL_LETTERS, *"how")))  # type: ignore[call-arg]
    lines: list[str] = []
    prepare(recipe, tmp_path / "prepared", lines)
    found = [line for line in lines if "letters that objective.alphabet lacks" in line]
    assert len(found) == 3 and all("'l' (" in line and line.endswith("each is read as <unk>") for line in found)


def test_unreadable_recordings_are_named_and_left_out_up_to_the_allowed_share(tmp_path: Path) -> None:
    for name in ("no", "yes"):
        write_recordings(tmp_path / "raw" / name, [400] * 8)
    (tmp_path / "raw" / "no" / "003.wav").write_bytes(b"no audio")
    lines: list[str] = []
    recipe = labelled_recipe(tmp_path / "raw", "classify")
    assert load_info(prepare(recipe, tmp_path / "prepared", lines)).counts == {"train": 11, "valid": 4}
    assert any("no/003.wav" in line for line in lines) and "split train: left out 1 without content, of 16 rows" in lines
    with pytest.raises(ConfigError, match="1 without content, of 16 rows, more than the 0"):
        prepare(replace(recipe, data=replace(recipe.data, max_bad_fraction=0.0)), tmp_path / "other")  # type: ignore[call-arg]


def test_data_without_labels_are_refused_and_test_data_without_labels_are_only_predicted(tmp_path: Path) -> None:
    write_recordings(tmp_path / "plain", [400] * 8)
    with pytest.raises(ConfigError, match=r"plain: no column 'text' of labels in split .*--set data\.label_column="):
        prepare(labelled_recipe(tmp_path / "plain"), tmp_path / "prepared")
    write_split(tmp_path / "data", "train", LENGTHS)
    write_split(tmp_path / "data", "test", [1000, 3000], text=[None, None])
    info = load_info(folder := prepare(labelled_recipe(tmp_path / "data", max_seconds=0.12), tmp_path / "prepared"))
    assert info.unlabelled == ["test"] and load_split_of(folder, "test").arrays["length"].tolist() == [1000, 3000]


def test_the_shipped_recordings_have_no_labels() -> None:
    recipe = labelled_recipe(Path("x"))
    with pytest.raises(ConfigError, match="the shipped recordings have no labels"):
        LabelledSpeechReader(replace(recipe, data=replace(recipe.data, path=None)), print)  # type: ignore[call-arg]


def test_a_digest_changes_with_the_number_and_the_names_of_the_recordings(tmp_path: Path) -> None:
    write_recordings(tmp_path, [400] * 3)
    first = digest_of(open_recordings(str(tmp_path), "train", "audio"))
    (tmp_path / "000.wav").rename(tmp_path / "a.wav")
    renamed = digest_of(open_recordings(str(tmp_path), "train", "audio"))
    assert first.dtype == np.uint8 and first.shape == (32,) and not np.array_equal(first, renamed)
