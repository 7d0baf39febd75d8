"""Labelled text tables: splits by file name, columns by name, and the errors if they are missing."""

import json
from pathlib import Path

import pytest

from recipes.data.labelled_text import load_split, load_table
from recipes.errors import ConfigError, MissingSplit

COLUMNS = ("text", "label")


def load(path: object, split: str, columns: tuple[str, str] = COLUMNS) -> tuple:
    """(texts, labels)."""
    return load_split(str(path), split, *columns)[:2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text('text,label\n"one, two",a\nthree,b\n')
    (tmp_path / "validation.jsonl").write_text("\n".join(json.dumps({"text": t, "label": 1}) for t in "xyz") + "\n")
    (tmp_path / "README.md").write_text("not a split")
    return tmp_path


def test_a_split_is_the_file_of_its_name(folder: Path) -> None:
    assert load(folder, "train") == (["one, two", "three"], ["a", "b"])
    assert load(folder, "valid") == (list("xyz"), ["1", "1", "1"])


def test_a_tab_separated_table_is_split_at_its_tabs(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\none, two\ta\n")
    assert load(tmp_path, "train") == (["one, two"], ["a"])


def test_labels_such_as_na_and_null_are_labels_and_an_empty_cell_is_none(tmp_path: Path) -> None:
    labels = ["NA", "None", "null", "nan", "1", "01", "true"]
    (tmp_path / "train.csv").write_text("text,label,other\n" + "".join(f"t,{label},{i}\n" for i, label in enumerate(labels)) + "t,,x\n")
    assert load(tmp_path, "train")[1] == [*labels, None]


def test_other_columns_may_have_any_type(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0, "x": 1}\n{"text": "b", "label": 1, "x": [{"y": "z"}]}\n')
    assert load(tmp_path, "train") == (["a", "b"], ["0", "1"])


def test_the_path_of_a_folder_may_begin_with_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(f"~/{folder.name}", "valid")[0] == list("xyz")


def test_the_requested_split_of_a_hub_name_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def give(*args: object, **options: object) -> datasets.Dataset:
        assert (args, options) == (("owner/name", None), {"split": "test"})
        return datasets.Dataset.from_dict({"text": ["one"], "label": [0], "other": [1]})

    monkeypatch.setattr(datasets, "load_dataset", give)
    assert load_split("owner/name", "test", *COLUMNS) == (["one"], ["0"], ["text", "label", "other"])


def test_a_damaged_table_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"train\.parquet: cannot be read as a table") as caught:
        load(tmp_path, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "columns", "complaint"),
    [
        ("test", COLUMNS, r"no split 'test', there are 1 of train, 1 of valid;"),
        ("train", ("words", "label"), r"no column 'words', there are text, label; rename the column of texts"),
    ],
)
def test_the_error_for_a_missing_split_or_column_lists_the_others(
    folder: Path, split: str, columns: tuple[str, str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(folder, split, columns)


def test_a_missing_split_raises_missing_split_and_a_missing_column_does_not(folder: Path) -> None:
    with pytest.raises(MissingSplit):
        load(folder, "test")
    with pytest.raises(ConfigError) as caught:
        load(folder, "train", ("words", "label"))
    assert not isinstance(caught.value, MissingSplit)


@pytest.mark.parametrize("name", ["train.csv", "validation.jsonl"])
def test_one_file_is_the_training_split(folder: Path, name: str) -> None:
    assert len(load(folder / name, "train")[0]) > 1
    with pytest.raises(MissingSplit, match="one file is one split, and 'valid' was asked for"):
        load(folder / name, "valid")


def test_a_file_that_is_no_table_or_no_data_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"README\.md: no table; give one of \.csv, \.tsv, \.json, \.jsonl, \.parquet, or a folder"):
        load(folder / "README.md", "train")
    with pytest.raises(ConfigError, match="the shipped text has no labels"):
        load_split(None, "train", *COLUMNS)


def test_a_missing_column_of_texts_is_chosen_by_a_setting(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'words', there are text, label; --set data\.text_columns=NAME chooses others"):
        load_table(str(folder), "train", ("text", "words"), "label")


def test_files_of_a_split_of_which_one_has_no_label_column_give_empty_labels(tmp_path: Path) -> None:
    (tmp_path / "train-1.csv").write_text("text,label\na,x\n")
    (tmp_path / "train-2.csv").write_text("text\nb\n")
    (tmp_path / "test.csv").write_text("text\nc\n")
    assert load(tmp_path, "train") == (["a", "b"], ["x", None])


def test_a_missing_label_column_gives_no_labels_and_the_existing_columns(folder: Path) -> None:
    assert load_split(str(folder), "train", "text", "intent") == (["one, two", "three"], [None, None], ["text", "label"])


def test_a_class_has_the_same_name_if_an_empty_cell_makes_its_column_float(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "test.csv").write_text("text,label\na,0\nb,\nc,1\nd,-1\n")
    assert load(tmp_path, "train")[1] == ["0", "1"]
    assert load(tmp_path, "test")[1] == ["0", None, "1", None]


def test_numbered_classes_are_read_by_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    Dataset.from_dict({"text": list("abc"), "label": [1, -1, 0]}, features=features).to_parquet(str(tmp_path / "train.parquet"))
    assert load(tmp_path, "train")[1] == ["good", None, "bad"]


def test_a_saved_data_set_is_read_by_its_splits(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    splits = {
        name: Dataset.from_dict({"text": [name], "label": [label]}, features=features) for name, label in (("train", 1), ("test", -1))
    }
    DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert load(tmp_path / "saved", "train") == (["train"], ["good"]) and load(tmp_path / "saved", "test") == (["test"], [None])
    with pytest.raises(MissingSplit, match="no split 'valid', there are train, test"):
        load(tmp_path / "saved", "valid")


def test_a_split_may_be_in_several_files_at_any_depth_with_any_characters_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "labels [v2]" / "data"
    folder.mkdir(parents=True)
    for name, text in (("train-00000-of-00002", "a"), ("train-00001-of-00002", "b"), ("test-00000-of-00001", "c")):
        (folder / f"{name}.csv").write_text(f"text,label\n{text},x\n")
    assert load(folder.parent, "train") == (["a", "b"], ["x", "x"])
    assert load(folder.parent, "test")[0] == ["c"]
    (folder / "test.jsonl").write_text(json.dumps({"text": "d", "label": "x"}))
    with pytest.raises(ConfigError, match=r"split 'test' is in more than one kind of file \(\.csv, \.jsonl\); leave one"):
        load(folder.parent, "test")


def test_a_link_that_is_named_for_a_split_goes_before_one_that_is_not(tmp_path: Path) -> None:
    for name in ("data/train/a.csv", "far/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"text,label\n{name},1\n")
    for name in ("also", "test"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "far")
    assert load(tmp_path / "data", "test") == (["far/a.csv"], ["1"])
