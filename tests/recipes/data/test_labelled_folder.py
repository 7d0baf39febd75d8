"""The prepared folder of labelled data: what is written is read, damage is one line, and equal data have equal fingerprints."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.labelled_folder import (
    LabelledInfo,
    LabelledRow,
    StoredSplit,
    find_labelled,
    finish_folder,
    in_random_order,
    load_info,
    load_split_of,
    num_held_out,
    save_split,
)
from recipes.errors import ConfigError, DataMismatch

SPLIT = StoredSplit([LabelledRow("a\u2028b\n", "x"), LabelledRow("c", None)], {"ends": np.array([3, 5])})
SETTINGS = {"data.path": "data", "data.text_columns": ("text",)}
INFO = LabelledInfo("labelled_text", "data", SETTINGS, "", {"train": 2}, {"objective.labels": ("x",)})


def write(folder: Path, split: StoredSplit = SPLIT, info: LabelledInfo = INFO) -> Path:
    folder.mkdir()
    save_split(folder, "train", split)
    finish_folder(folder, info)
    return folder


def test_a_split_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Also characters at which Python splits lines."""
    found = load_split_of(write(tmp_path / "p"), "train")
    assert found.rows == SPLIT.rows and found.arrays["ends"].tolist() == [3, 5]


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    first = load_info(write(tmp_path / "a"))
    assert first.fingerprint == load_info(write(tmp_path / "b")).fingerprint and len(first.fingerprint) == 64
    others = [
        write(tmp_path / "c", SPLIT._replace(rows=[LabelledRow("other", "x"), SPLIT.rows[1]])),
        write(tmp_path / "d", SPLIT._replace(arrays={"ends": np.array([3, 6])})),
        write(tmp_path / "e", info=replace(INFO, values={"objective.labels": ("y",)})),
    ]
    assert len({first.fingerprint, *(load_info(folder).fingerprint for folder in others)}) == 4


@pytest.mark.parametrize("name", ["train.jsonl", "train.npz"])
def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "p")
    (folder / name).write_bytes((folder / name).read_bytes()[:30])
    with pytest.raises(ConfigError, match=r"split train cannot be read .*; remove the folder and prepare it again"):
        load_split_of(folder, "train")
    (folder / name).unlink()
    with pytest.raises(ConfigError, match="split train is missing; remove the folder and prepare it again"):
        load_info(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": 99}, "prepared format 99, this version reads 1"),
        ({"counts": None}, "not readable as prepared data"),
        ({"unheard_of": 1}, "not readable as prepared data"),
    ],
)
def test_a_prepared_json_that_cannot_be_read_is_one_line(tmp_path: Path, changes: dict, complaint: str) -> None:
    path = write(tmp_path / "p") / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match=complaint):
        load_info(path.parent)


def test_data_without_labels_are_a_mismatch(tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text('{"version": 1}')
    with pytest.raises(DataMismatch, match="prepared from text without labels"):
        load_info(tmp_path)


def test_a_folder_with_other_settings_is_a_mismatch_and_a_folder_that_data_path_names_may_be_of_another_path(tmp_path: Path) -> None:
    folder, settings = write(tmp_path / "p"), SETTINGS | {"data.newer": 1}
    assert find_labelled("data", folder, settings) == folder, "a setting of a later release is not compared"
    assert find_labelled(str(folder), tmp_path / "run", settings | {"data.path": str(folder)}) == folder
    for changes, complaint in (
        ({"data.text_columns": ("a", "b")}, r"prepared with data.text_columns \['text'\], now \['a', 'b'\]"),
        ({"data.path": "others"}, "prepared with data.path data, now others"),
    ):
        with pytest.raises(DataMismatch, match=complaint):
            find_labelled("data", folder, settings | changes)


@pytest.mark.parametrize(("num_samples", "fraction", "count"), [(1000, 0.1, 100), (5, 0.1, 1), (3, 0.99, 2), (1, 0.5, 0)])
def test_held_out_samples_are_a_share_and_never_all(num_samples: int, fraction: float, count: int) -> None:
    assert num_held_out(num_samples, fraction) == count


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 40))
def test_the_beginning_of_the_random_order_has_as_many_labels_as_can_be(labels: list[str], count: int) -> None:
    order = in_random_order(labels)
    assert sorted(order) == list(range(len(labels))) and order == in_random_order(labels)
    assert len({labels[number] for number in order[:count]}) == min(count, len(set(labels)))
