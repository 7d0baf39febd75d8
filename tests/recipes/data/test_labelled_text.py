"""Labelled text tables: splits by file name, columns by name, and what is said when they are not there."""

import json
from pathlib import Path

import pytest

from recipes.data.labelled_text import load_split
from recipes.errors import ConfigError, MissingSplit

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


def test_a_tab_separated_table_is_cut_at_its_tabs(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\none, two\ta\n")
    assert load_split(str(tmp_path), "train", COLUMNS) == {"text": ["one, two"], "label": ["a"]}


def test_a_folder_may_be_named_from_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_split(f"~/{folder.name}", "valid", COLUMNS)["text"] == list("xyz")


def test_a_hub_name_is_asked_for_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def give(*args: object, **options: object) -> datasets.Dataset:
        assert (args, options) == (("owner/name", None), {"split": "test"})
        return datasets.Dataset.from_dict({"text": ["one"], "label": [0], "other": [1]})

    monkeypatch.setattr(datasets, "load_dataset", give)
    assert load_split("owner/name", "test", COLUMNS) == {"text": ["one"], "label": [0]}


def test_a_damaged_table_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"train\.parquet: cannot be read as a table") as caught:
        load_split(str(tmp_path), "train", COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "columns", "complaint"),
    [
        ("test", COLUMNS, r"no split 'test', there are 1 of train, 1 of valid;"),
        ("train", ("text", "intent"), r"no column 'intent', there are text, label; name the class with --label-column"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(folder: Path, split: str, columns: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_split(str(folder), split, columns)


def test_a_split_that_is_not_there_is_told_from_what_cannot_be_read(folder: Path) -> None:
    with pytest.raises(MissingSplit):
        load_split(str(folder), "test", COLUMNS)
    with pytest.raises(ConfigError) as caught:
        load_split(str(folder), "train", ("words", "label"))
    assert not isinstance(caught.value, MissingSplit)


def test_one_file_and_no_data_are_the_users_to_mend(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one file is one split"):
        load_split(str(folder / "train.csv"), "train", COLUMNS)
    with pytest.raises(ConfigError, match="the shipped text has no labels"):
        load_split(None, "train", COLUMNS)


def test_a_split_may_lie_in_several_files_at_any_depth_with_any_characters_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "labels [v2]" / "data"
    folder.mkdir(parents=True)
    for name, text in (("train-00000-of-00002", "a"), ("train-00001-of-00002", "b"), ("test-00000-of-00001", "c")):
        (folder / f"{name}.csv").write_text(f"text,label\n{text},x\n")
    assert load_split(str(folder.parent), "train", COLUMNS) == {"text": ["a", "b"], "label": ["x", "x"]}
    assert load_split(str(folder.parent), "test", COLUMNS)["text"] == ["c"]
    (folder / "test.jsonl").write_text(json.dumps({"text": "d", "label": "x"}))
    with pytest.raises(ConfigError, match=r"split 'test' is in more than one kind of file \(\.csv, \.jsonl\); leave one"):
        load_split(str(folder.parent), "test", COLUMNS)
