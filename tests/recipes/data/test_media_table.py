"""Tables of bytes: parquet, saved data sets and the hub give the same items, undecoded. Wrong columns and splits are refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from recipes.data.media_table import Table, open_hub, open_parquet, open_saved, save_table
from recipes.errors import ConfigError

COLUMNS = {"column": "audio", "label_column": "rating", "column_option": "--set probe.column="}
"""The names differ from the defaults, so that a test fails if a name is not passed on."""
CONTENTS = [b"zero", b"one", b"two"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the cache of `datasets` into tmp_path, so that no files remain elsewhere."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(kind: str = "audio", contents: list[bytes] = CONTENTS) -> Any:
    """A data set of that kind of column, with labels."""
    import datasets

    values = [{"bytes": content, "path": f"{i}.wav"} for i, content in enumerate(contents)]
    audio: list[Any] = contents if kind == "binary" else values
    table = datasets.Dataset.from_dict({"audio": audio, "text": ["t"] * len(contents), "rating": [i % 2 for i in range(len(contents))]})
    table = table.cast_column("rating", datasets.ClassLabel(names=["no", "yes"]))
    return table.cast_column("audio", datasets.Audio()) if kind == "audio" else table


def check(table: Table, contents: list[bytes] = CONTENTS) -> None:
    """Check that these are the items."""
    assert [table.read(i) for i in range(len(table))] == contents
    assert [table.open(i).read() for i in range(len(table))] == contents
    assert [table.size(i) for i in range(len(table))] == [len(content) for content in contents]


@pytest.mark.parametrize("kind", ["audio", "struct", "binary"])
def test_every_kind_of_column_gives_the_bytes_undecoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.parquet"
    rows(kind).to_parquet(path)
    table = open_parquet(path, [path], **COLUMNS)
    check(table)
    assert (table.where(1), table.key(1), table.name) == (f"{path} row 2", "1", str(path))
    assert table.file(1) is None, "what is gone of a table is a row, not a file"
    assert [table.label(i) for i in range(3)] == ["no", "yes", "no"]


def test_names_of_parquet_files_are_not_read_as_glob_patterns(tmp_path: Path) -> None:
    data = tmp_path / "data [v2]"
    data.mkdir()
    (data / "README.md").write_text("not data")
    rows().to_parquet(data / "a [1].parquet")
    rows(contents=[b"three"]).to_parquet(data / "b*.parquet")
    rows(contents=[b"held", b"out"]).to_parquet(data / "b2.parquet")
    table = open_parquet(data, [data / "b*.parquet", data / "a [1].parquet"], note="two of three", **COLUMNS)
    check(table, [b"three", *CONTENTS])
    assert (table.where(3), table.note) == (f"{data} row 4", "two of three")
    assert table.files == [data / "b*.parquet", data / "a [1].parquet"]


def test_saved_data_sets_are_read_with_and_without_splits(tmp_path: Path) -> None:
    import datasets

    rows().save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows(), validation=rows(contents=[b"x"])).save_to_disk(tmp_path / "two")
    check(open_saved(tmp_path / "one", split="train", **COLUMNS))
    table = open_saved(tmp_path / "two", split="valid", **COLUMNS)
    check(table, [b"x"])
    assert (table.name, table.saved_split) == (str(tmp_path / "two"), "valid")
    with pytest.raises(ConfigError, match="no split 'test', there are train"):
        open_saved(tmp_path / "one", split="test", **COLUMNS)
    check(open_saved(tmp_path / "two", split="all", **COLUMNS), [*CONTENTS, b"x"])
    train = open_saved(tmp_path / "two", split=None, **COLUMNS)
    assert [path.parent.name for path in train.files] == ["train"]
    assert (train.note, train.saved_split) == ("train: 3 rows; left out: 1 of validation", "train")


def test_the_requested_split_of_a_hub_name_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls = []

    def give(*args: object, **options: object) -> Any:
        calls.append((args, options))
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", give)
    table = open_hub("owner/name:clean", split="test", **COLUMNS)
    check(table)
    assert calls == [(("owner/name", "clean"), {"split": "test"})]
    assert table.where(0) == "owner/name:clean row 1"


def test_save_table_stores_the_items_column_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    rows().to_parquet(path)
    save_table(open_parquet(path, [path], **COLUMNS), tmp_path / "table")
    saved = open_saved(tmp_path / "table", split="train", **COLUMNS)
    check(saved)
    assert saved.dataset.column_names == ["audio"] and saved.label(0) is None
    path.unlink()
    opened = pickle.dumps(saved)
    assert len(opened) < 10_000  # the names of the files, not their content
    check(pickle.loads(opened))


def test_labels_are_texts_whatever_the_columns_type(tmp_path: Path) -> None:
    import datasets

    values: dict[str, Any] = {"audio": [b"a", b"b"], "rating": [7, None]}
    datasets.Dataset.from_dict(values).save_to_disk(tmp_path / "one")
    table = open_saved(tmp_path / "one", split="train", **COLUMNS)
    assert [table.label(0), table.label(1)] == ["7", None]


def test_a_row_without_bytes_gives_the_file_of_its_path_or_an_error(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "a.wav").write_bytes(b"from the file")
    paths = [str(tmp_path / "a.wav"), str(tmp_path / "gone.wav"), None]
    values = [{"bytes": None, "path": path} for path in paths] + [{"bytes": b"x", "path": None}]
    datasets.Dataset.from_dict({"audio": values}).save_to_disk(tmp_path / "one")
    table = open_saved(tmp_path / "one", split="train", **COLUMNS)
    assert (table.read(0), table.size(0), table.read(3)) == (b"from the file", 13, b"x")
    for index, reason in ((1, "No such file"), (2, "the row is empty")):
        for read in (table.read, table.size):
            with pytest.raises(OSError, match=reason):
                read(index)


def test_wrong_columns_are_refused_with_the_existing_ones(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    rows().to_parquet(path)
    with pytest.raises(ConfigError, match=r"no column 'sound', there are audio, text, rating; --set probe\.column=NAME"):
        open_parquet(path, [path], **{**COLUMNS, "column": "sound"})
    with pytest.raises(ConfigError, match=r"column 'text' holds string, not the bytes of files; --set probe\.column=NAME"):
        open_parquet(path, [path], **{**COLUMNS, "column": "text"})


def test_damaged_and_empty_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match=r"broken\.parquet: cannot be read as a table"):
        open_parquet(tmp_path / "broken.parquet", [tmp_path / "broken.parquet"], **COLUMNS)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        open_saved(tmp_path, split="train", **COLUMNS)
    rows("binary").select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        open_saved(tmp_path / "none", split="train", **COLUMNS)
    rows("binary").select([]).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ConfigError, match=r"cannot be read as a table .*no data"):
        open_parquet(tmp_path, [tmp_path / "none.parquet"], **COLUMNS)


@pytest.mark.parametrize("is_shown", [True, False])
def test_progress_bars_of_the_library_are_off_while_it_reads_and_then_as_they_were(
    tmp_path: Path, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    seen: list[bool] = []
    is_off = datasets.utils.are_progress_bars_disabled
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: seen.append(is_off()) or rows())
    was_shown = not is_off()
    try:
        (datasets.enable_progress_bars if is_shown else datasets.disable_progress_bars)()
        open_hub("owner/name", split="train", **COLUMNS)
        assert seen == [True] and is_off() == (not is_shown)
    finally:
        (datasets.enable_progress_bars if was_shown else datasets.disable_progress_bars)()


def test_rows_of_one_file_have_one_origin_and_all_others_their_own(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "a.wav").write_bytes(b"a")
    values = [{"bytes": content, "path": str(tmp_path / "a.wav")} for content in (None, None, b"x", b"x")] + [None]
    datasets.Dataset.from_dict({"audio": values}).save_to_disk(tmp_path / "one")
    table = open_saved(tmp_path / "one", split="train", **COLUMNS)
    origins = [table.origin(i) for i in range(5)]
    assert origins[0] == origins[1] == str(tmp_path / "a.wav") and len(set(origins)) == 4
