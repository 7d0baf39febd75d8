"""Data sets of the `datasets` library: which split is read, by which names it is found, and the log line of what is left out."""

from pathlib import Path

import pytest

from recipes.data.datasets_library import describe_rows, files_of, load_hub, load_saved
from recipes.errors import ConfigError, MissingSplit


def test_the_requested_split_of_a_saved_data_set_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    import datasets

    rows = {split: datasets.Dataset.from_dict({"text": [split] * count}) for split, count in (("train", 2), ("validation", 1))}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "saved"))
    for split, texts, note in (
        (None, ["train"] * 2, "train: 2 rows; left out: 1 of validation"),
        ("dev", ["validation"], "validation: 1 rows; left out: 2 of train"),
        ("all", ["train", "train", "validation"], "train, validation: 3 rows"),
    ):
        found, line = load_saved(tmp_path / "saved", split)
        assert (list(found["text"]), line) == (texts, note)
    with pytest.raises(MissingSplit, match="no split 'test', there are train, validation"):
        load_saved(tmp_path / "saved", "test")


def test_the_files_of_a_saved_data_set_are_those_of_the_splits_that_are_read(tmp_path: Path) -> None:
    import datasets

    rows = {split: datasets.Dataset.from_dict({"text": [split]}) for split in ("train", "validation")}
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path))
    arrow = {split: tmp_path / split / "data-00000-of-00001.arrow" for split in rows}
    assert files_of(load_saved(tmp_path, None)[0]) == [arrow["train"]]
    assert files_of(load_saved(tmp_path, "all")[0]) == [arrow["train"], arrow["validation"]]


def test_a_folder_that_is_not_a_saved_data_set_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        load_saved(tmp_path, None)


def test_a_split_of_the_hub_is_found_by_each_of_its_names_and_a_missing_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    (tmp_path / "a.csv").write_text("text\none\n")
    builder = datasets.load_dataset_builder("csv", data_files={"validation": str(tmp_path / "a.csv")}, cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split=None: builder.as_dataset(split=split))
    for split in ("validation", "valid", "dev", "all"):
        assert list(load_hub("owner/name", split)["text"]) == ["one"]
    with pytest.raises(MissingSplit, match="owner/name: no split 'test', there are validation; point --data at data that has one"):
        load_hub("owner/name", "test")


def test_the_other_splits_of_a_hub_data_set_are_named_if_its_metadata_list_them() -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    assert describe_rows("train", rows) == ""
    rows.info.splits = datasets.SplitDict.from_split_dict(
        {"train": {"name": "train", "num_examples": 2}, "x": {"name": "x", "num_examples": 5}}
    )
    assert describe_rows("train", rows) == "train: 2 rows; left out: 5 of x"
    assert describe_rows("all", rows) == "train, x: 7 rows"
    assert describe_rows("train[:1%]", rows) == ""


@pytest.mark.parametrize("is_script", [True, False])
def test_a_hubs_data_set_that_needs_a_loading_script_is_one_line_with_the_way_out(is_script: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    error = RuntimeError("Dataset scripts are no longer supported, but found books.py" if is_script else "a defect")

    def load(name: str, config: str | None, split: str | None = None) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    line = r"--data owner/books: Dataset scripts are .* but found books\.py; name a copy .* parquet files, or download its files and .*"
    with pytest.raises(ConfigError if is_script else RuntimeError, match=line if is_script else "^a defect$"):
        load_hub("owner/books")


def test_a_connection_that_is_lost_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import httpx2

    def load(*_: object, **__: object) -> None:
        raise httpx2.ReadError("connection lost")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ConfigError, match=r"--data owner/name: no such file or folder, and the hub does not give it \(connection lost\)"):
        load_hub("owner/name")
