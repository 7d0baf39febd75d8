"""Sources of text: every kind of data.path gives the same documents, and the error about a wrong one names the fault."""

import gzip
import json
from pathlib import Path

import pytest

from recipes.data import source
from recipes.data.source import open_source
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError, MissingSplit

TEXTS = ["one two\nthree", "", "four"]
ONE_LINE = [text.replace("\n", " ") for text in TEXTS]
"""The texts for a tab-separated table, which has no quotes and so no line breaks in a cell."""
EXPECTED = [(0, "one two"), (0, "three"), (2, "four")]


def read(path: Path | str | None, column: str = "text") -> list[tuple[int, str]]:
    return list(open_source(TextDataConfig(path=None if path is None else str(path), text_column=column)).paragraphs())


def test_text_files_are_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three\n")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.txt").write_text("not data")
    assert read(tmp_path) == [(0, "one"), (0, "two"), (1, "three")]
    assert read(tmp_path / "b.txt") == [(0, "three")]


def test_the_name_of_a_source_is_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("one\n")
    monkeypatch.chdir(tmp_path)
    for path in ("books", "books/a.txt"):
        assert open_source(TextDataConfig(path=path)).name == str(tmp_path / path)


def test_no_path_is_the_shipped_sample_of_23_novels() -> None:
    documents = [number for number, _ in read(None)]
    assert (documents[0], documents[-1]) == (0, 22)
    assert len(documents) > 40_000


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet", "saved", "saved with splits"])
def test_every_table_gives_one_document_per_row_from_the_named_column(tmp_path: Path, kind: str) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["another, column"] * 3, "body": TEXTS})
    path = tmp_path / f"rows.{kind}"
    if kind.startswith("jsonl"):
        content = "".join(json.dumps({"text": "another, column", "body": text}) + "\n" for text in TEXTS).encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    elif kind == "tsv":
        path.write_text("text\tbody\n" + "".join(f'another "column\t{text}\n' for text in ONE_LINE))
    elif kind == "saved":
        rows.save_to_disk(path)
    elif kind == "saved with splits":
        datasets.DatasetDict(test=rows.select([0]), train=rows).save_to_disk(path)
    else:
        getattr(rows, f"to_{kind}")(path)
    expected = [(0, "one two three"), (2, "four")] if kind == "tsv" else EXPECTED
    assert read(path, "body") == expected
    if path.is_file():
        (tmp_path / "folder").mkdir()
        path.rename(tmp_path / "folder" / path.name)
        assert read(tmp_path / "folder", "body") == expected


def test_a_null_cell_is_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": null}\n{"text": "four"}\n')
    assert read(tmp_path) == [(1, "four")]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", "./nowhere", "nowhere.txt"):
        with pytest.raises(ConfigError, match=r"nowhere.*: no such file or folder"):
            read(path)


def test_the_error_about_an_unknown_name_mentions_path_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match=r"owner/name:config: no such file or folder, and the hub .*no network"):
        read("owner/name:config")


def test_a_hub_name_is_split_into_name_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls = []

    def give(*args: object, **options: object) -> datasets.Dataset:
        calls.append((args, options))
        return datasets.Dataset.from_dict({"text": ["another column"] * 3, "body": TEXTS})

    monkeypatch.setattr(datasets, "load_dataset", give)
    assert read("wikimedia/wikipedia:20231101.en", "body") == EXPECTED
    assert calls == [(("wikimedia/wikipedia", "20231101.en"), {"split": "train"})]


def test_a_folder_without_text_lists_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found nothing; known are \.txt"):
        read(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"found 2 \.png; known are \.txt"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown kind of file \.png"):
        read(tmp_path / "a.png")


def test_a_folder_with_two_kinds_of_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.csv").write_text("text\ntwo\n")
    with pytest.raises(ConfigError, match=r"more than one kind of file \(1 \.txt, 1 \.csv\)"):
        read(tmp_path)


def test_the_error_about_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": 1, "body": "one"}\n')
    with pytest.raises(ConfigError, match=r"no column 'text', there are id, body; --set data\.text_column=NAME"):
        open_source(TextDataConfig(path=str(tmp_path)))
    assert read(tmp_path, "body") == [(0, "one")]


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(ConfigError, match="column 'text' holds int, not text"):
        read(tmp_path)


BROKEN_TABLES = [
    ("rows.jsonl", b'{"text": "a"}\n{"te', " row 2: cannot be read as a table"),
    ("rows.parquet", b"PAR1 no", " row 1: cannot be read as a table"),
    ("rows.csv", b"text\ncaf\xe9\n", " line 2: byte 0xe9 is not UTF-8"),
    ("rows.csv", b"", " row 1: .*empty file"),
    ("rows.jsonl", b'{"text": "a\\ud800"}\n', r" row 1 \(line 1\): column 'text' holds half a character"),
]


@pytest.mark.parametrize(("name", "content", "complaint"), BROKEN_TABLES)
def test_a_broken_table_is_named_with_its_row(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{tmp_path}/{name}{complaint}"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["part*.jsonl", "a [v2].jsonl", "what?.jsonl"])
def test_wildcards_in_a_name_are_not_expanded(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "corpus [v2]"
    folder.mkdir()
    (folder / name).write_text('{"text": "one"}\n')
    (folder / "part1.jsonl").write_text('{"text": "two"}\n')
    assert sorted(text for _, text in read(folder)) == ["one", "two"]
    assert read(folder / name) == [(0, "one")]


def test_files_of_a_folder_may_have_other_columns_beside_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "score": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"id": [1], "score": "high", "text": "two"}\n')
    assert read(tmp_path) == [(0, "one"), (1, "two")]
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ConfigError, match=r"c\.jsonl: no column 'text', there are id; --set data\.text_column=NAME"):
        read(tmp_path)


def test_a_broken_saved_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        read(tmp_path)


def test_the_shipped_sample_has_its_licence_beside_it() -> None:
    assert "Licence: public domain" in (source.SAMPLE / "README.md").read_text()


def splits_of_text(tmp_path: Path, kind: str) -> Path:
    """Write three splits of one text each into a folder whose name contains wildcards."""
    import datasets

    folder = tmp_path / "corpus [v2]" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        if kind == "txt":
            (folder / f"{split}.txt").write_text(split)
        else:
            rows = datasets.Dataset.from_dict({"text": [split]})
            getattr(rows, f"to_{kind.replace('jsonl', 'json')}")(folder / f"{split}-00000-of-00001.{kind}")
    return folder.parent


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_splits_of_text_are_found_by_the_names_of_files(tmp_path: Path, kind: str) -> None:
    path = splits_of_text(tmp_path, kind)
    assert read(path) == [(0, "train")]
    source = open_source(TextDataConfig(path=str(path)))
    assert source.note == f"train: 1 file (1 .{kind}) of data/train; left out: 1 of data/test, 1 of data/valid"
    for split, expected in (("validation", ["validation"]), ("all", ["test", "train", "validation"])):
        assert [text for _, text in open_source(TextDataConfig(path=str(path), split=split)).paragraphs()] == expected


def test_splits_of_text_are_found_by_the_names_of_folders_and_files_beside_them_are_refused(tmp_path: Path) -> None:
    for name in ("Train/b.txt", "Train/a/x.txt", "Test/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path) == [(0, "Train/a/x.txt"), (1, "Train/b.txt")]
    (tmp_path / "d.txt").write_text("beside")
    with pytest.raises(
        ConfigError, match=r"its names do not say which part is training data, there are 1 in no sub-folder, 1 of Test, 2 of Train;"
    ):
        read(tmp_path)


def test_data_split_selects_the_splits_of_a_saved_data_set_and_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {split: datasets.Dataset.from_dict({"body": [split]}) for split in ("train", "validation", "extra")}
    datasets.DatasetDict(**rows).save_to_disk(tmp_path / "saved [v2]")
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: calls.append(options["split"]) or rows["extra"])
    for split, expected in ((None, ["train"]), ("valid", ["validation"]), ("extra", ["extra"]), ("all", ["train", "validation", "extra"])):
        source = open_source(TextDataConfig(path=str(tmp_path / "saved [v2]"), text_column="body", split=split))
        assert [text for _, text in source.paragraphs()] == expected
        assert ("left out" in source.note) == (split != "all")
        assert [path.parent.name for path in source.paths] == expected
        assert not open_source(TextDataConfig(path="owner/name", split=split)).paths
    assert calls == ["train", "valid", "extra", "all"]


def test_linked_text_is_read_once_per_file_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x.txt").write_text("far")
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("near")
    (data / "more").symlink_to(tmp_path / "far")
    (data / "gone.txt").symlink_to("/not/there.txt")
    (data / "again.txt").symlink_to("a.txt")
    assert read(data) == [(0, "near"), (1, "far")]
    for name in ("wiki_00", "b.zst", "README.txt"):
        (data / name).write_text("not text")
    note = open_source(TextDataConfig(path=str(data))).note
    assert note.startswith("all: 2 files (2 .txt); left out: 1 ") and note.endswith(
        f", 1 links to files that are read anyway; {data}/gone.txt: a link to nothing"
    )
    assert "1 without suffix" in note and "1 .zst" in note and "1 .txt," in note


@pytest.mark.parametrize("readme", ["README.txt", "ORIGINAL-README.txt", "mit.licence.txt", "README.en.txt.gz", "old_License.TXT.gz"])
def test_a_folder_whose_only_text_is_a_readme_is_refused(tmp_path: Path, readme: str) -> None:
    for name in (readme, "wiki_00", "wiki_01"):
        (tmp_path / name).write_text("one")
    with pytest.raises(
        ConfigError, match=r"no text in it, found 2 without suffix, 1 \.txt(\.gz)?; known are .*; a README or licence does not count"
    ):
        read(tmp_path)
    (tmp_path / readme).rename(tmp_path / "Their readme, a tale.txt")
    assert read(tmp_path) == [(0, "one")]


def test_a_single_file_of_text_is_split_train_or_all_but_no_other_split(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("one")
    for split in (None, "train", "all"):
        assert list(open_source(TextDataConfig(path=str(tmp_path / "test.txt"), split=split)).paragraphs()) == [(0, "one")]
    with pytest.raises(MissingSplit, match=r"test\.txt: one file is one split, and 'valid' was asked for"):
        open_source(TextDataConfig(path=str(tmp_path / "test.txt"), split="valid"))


def test_a_link_to_held_out_text_that_is_named_for_it_goes_before_one_that_is_not(tmp_path: Path) -> None:
    for name in ("data/train/a.txt", "far/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    for name in ("also", "test"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "far")
    assert read(tmp_path / "data") == [(0, "data/train/a.txt")]
