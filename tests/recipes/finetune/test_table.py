"""Labelled text tables: splits by file name, columns by name, and what is said when they are not there."""

import json
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune.table import load_split

COLUMNS = ("text", "label")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text('text,label\n"one, two",a\nthree,b\n')
    (tmp_path / "validation.jsonl").write_text("\n".join(json.dumps({"text": t, "label": 1}) for t in "xyz") + "\n")
    (tmp_path / "README.md").write_text("not a split")
    return tmp_path


def test_a_split_is_the_file_of_its_name(folder: Path) -> None:
    assert load_split(str(folder), "train", COLUMNS) == {"text": ["one, two", "three"], "label": ["a", "b"]}
    assert load_split(str(folder), "valid", COLUMNS) == {"text": list("xyz"), "label": [1, 1, 1]}


@pytest.mark.parametrize(
    ("split", "columns", "complaint"),
    [
        ("test", COLUMNS, r"no split 'test', there are train, validation"),
        ("train", ("text", "intent"), r"no column 'intent', there are text, label; name the class with --label-column"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(folder: Path, split: str, columns: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_split(str(folder), split, columns)


def test_one_file_and_no_data_are_the_users_to_mend(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one file is one split"):
        load_split(str(folder / "train.csv"), "train", COLUMNS)
    with pytest.raises(ConfigError, match="the shipped text has no labels"):
        load_split(None, "train", COLUMNS)
