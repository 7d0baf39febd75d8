"""Lists of files: every format gives the same rows, and the error for a damaged list names the line or column."""

import json
from pathlib import Path

import pytest

from recipes.data.manifest import FileManifest, Segment, read_manifest
from recipes.errors import ConfigError


def read(path: Path, column: str = "audio", label_column: str = "rating") -> FileManifest:
    return read_manifest(path, column=column, label_column=label_column, column_option="--set probe.column=")


def write(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


ROWS = [("a.wav", "yes"), ("b/c d.wav", "no")]


def text_of(kind: str, column: str) -> str:
    if kind == "jsonl":
        return "".join(json.dumps({"id": 1, column: path, "rating": label}) + "\n" for path, label in ROWS)
    separator = {"tsv": "\t", "csv": ","}[kind]
    return "".join(separator.join(row) + "\n" for row in [("id", column, "rating"), *(("1", *row) for row in ROWS)])


@pytest.mark.parametrize("column", ["audio", "path", "file"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_paths_and_labels_of_a_list_keep_its_order(tmp_path: Path, kind: str, column: str) -> None:
    manifest = read(write(tmp_path / f"list.{kind}", text_of(kind, column)))
    assert manifest[:3] == (str(tmp_path), ["a.wav", "b/c d.wav"], ["yes", "no"])


def test_the_recipes_column_is_preferred_to_the_usual_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "path,clip\nold.wav,new.wav\n")
    assert read(path, "clip").paths == ["new.wav"]
    assert read(path, "audio").paths == ["old.wav"]
    assert read(path).labels == [None]


def test_the_first_line_of_fairseqs_list_is_its_root(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for root in (str(tmp_path / "clips"), "clips"):
        path = write(tmp_path / "train.tsv", f"{root}\na.wav\t32000\nb/c.wav\t16000\n\n")
        assert read(path) == (str(tmp_path / "clips"), ["a.wav", "b/c.wav"], [None, None], [None, None], [], [])


def test_a_missing_root_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.tsv: its first line names the folder /nowhere, which is not there"):
        read(write(tmp_path / "train.tsv", "/nowhere\na.wav\t32000\n"))


def test_the_error_for_a_wrong_column_lists_the_existing_ones(tmp_path: Path) -> None:
    for kind in ("tsv", "csv", "jsonl"):
        path = write(tmp_path / f"list.{kind}", text_of(kind, "clip"))
        with pytest.raises(ConfigError, match=r"no column 'audio', there are id, clip, rating; --set probe\.column=NAME"):
            read(path)
        assert len(read(path, "clip").paths) == 2


def test_quotes_are_ordinary_characters_in_tsv_and_quote_cells_in_csv(tmp_path: Path) -> None:
    assert read(write(tmp_path / "list.tsv", 'path\ttext\na.wav\t"half a quote\nb.wav\tx\n')).paths == ["a.wav", "b.wav"]
    assert read(write(tmp_path / "list.csv", 'path,text\n"a,1.wav","two\nlines"\n')).paths == ["a,1.wav"]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    assert read(write(tmp_path / "list.csv", "\ufeffpath\na.wav\n")).paths == ["a.wav"]


def read_segments(path: Path) -> FileManifest:
    return read_manifest(path, column="audio", label_column="label", column_option="--set data.column=", has_segments=True)


NAMES = [
    ("offset", "duration", 2.5),
    ("start", "end", 12.5),
    ("start_time", "end_time", 12.5),
    ("begin", "stop", 12.5),
    ("start", "dur", 2.5),
    ("start_sec", "duration_sec", 2.5),
]


@pytest.mark.parametrize(("start", "other", "value"), NAMES)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_may_be_a_segment_of_its_file(tmp_path: Path, kind: str, start: str, other: str, value: float) -> None:
    row = {"audio_filepath": "long.wav", start: 10, other: value}
    content = json.dumps(row) if kind == "jsonl" else f"{','.join(row)}\n{','.join(map(str, row.values()))}\n"
    manifest = read_segments(write(tmp_path / f"a.{kind}", content))
    assert (manifest.paths, manifest.segments, manifest.segment_columns) == (["long.wav"], [Segment(10, 2.5)], [start, other])


def test_rows_with_and_without_a_segment_may_be_in_one_list(tmp_path: Path) -> None:
    rows = [{"path": "a"}, {"path": "b", "offset": 1}, {"path": "c", "offset": 0, "duration": "2.5"}, {"path": "d", "duration": 3}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_segments(path).segments == [None, Segment(1), Segment(0, 2.5), None]
    assert read(path).segments == [None] * 4, "only recordings have segments"


def test_an_end_is_preferred_to_a_length_which_may_be_that_of_the_whole_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,duration,start,end\na.wav,60,10,12.5\n")
    assert read_segments(path).segments == [Segment(10, 2.5)]


def test_a_length_without_a_start_is_not_a_segment(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "path,duration\na.wav,60\n")
    assert (read_segments(path).segments, read_segments(path).segment_columns) == ([None], [])


def test_a_cell_that_is_not_a_time_is_named_with_its_row(tmp_path: Path) -> None:
    for value in ("0:01:30", "nan", "inf"):
        path = write(tmp_path / "a.csv", f"path,start,end\na.wav,1,2\na.wav,{value},3\n")
        with pytest.raises(ConfigError, match=rf"a\.csv row 2 \(line 3\): column 'start' holds '{value}', no time in seconds"):
            read_segments(path)


DAMAGED = [
    ("list.csv", b"path\ncaf\xe9.wav\n", "line 2: byte 0xe9 is not UTF-8"),
    ("list.csv", b"", "row 1: .*empty file"),
    ("list.tsv", b"path\n", "lists no files"),
    ("list.csv", b"path,label\na.wav,x\n,y\n", r"row 2 \(line 3\): no path in column 'path'"),
    ("list.jsonl", b'{"path": "a.wav"}\n{"pa', "line 2: no JSON"),
    ("list.jsonl", b'[["a.wav"]]\n', "line 1: list, not an object"),
    ("list.jsonl", b'{"path": {"bytes": 1}}\n', r"row 1 \(line 1\): no path in column 'path'"),
]


@pytest.mark.parametrize(("name", "content", "complaint"), DAMAGED)
def test_the_error_for_a_damaged_list_names_the_line(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"list\.\w+.*{complaint}") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("head", "row"), [(",path,start,duration", "7,a.wav,2,3"), ("path,start,duration,", "a.wav,2,3")])
def test_a_column_without_a_name_such_as_the_index_of_pandas_is_no_time(tmp_path: Path, head: str, row: str) -> None:
    manifest = read_segments(write(tmp_path / "a.csv", f"{head}\n{row}\n"))
    assert (manifest.segments, manifest.segment_columns) == ([Segment(2, 3)], ["start", "duration"])
