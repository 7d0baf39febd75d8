"""Tables in files: cells are read as they were written, other columns do not matter, and errors are one line with file and row."""

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.data.text_tables import TABLE_FORMATS, TableFile, _split_csv
from recipes.errors import ConfigError


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, *columns: str) -> list[Any]:
    """Return the cells of each row. For a single column, return a flat list."""
    rows = [row.cells for row in TableFile(path).rows(columns or ("text",))]
    return [list(cells) for cells in rows] if len(columns) > 1 else [cells[0] for cells in rows]


WORDS = ["NA", "null", "None", "nan", "N/A", "#N/A", "-", "1", "01", "True", "2020-01-01"]


def test_words_that_other_readers_treat_as_missing_are_text(tmp_path: Path) -> None:
    for kind in ("csv", "tsv", "csv.gz"):
        assert read(write(tmp_path / f"a.{kind}", "text\n" + "\n".join(WORDS))) == WORDS
    lines = "\n".join(json.dumps({"text": word}) for word in WORDS)
    assert read(write(tmp_path / "a.jsonl", lines)) == read(write(tmp_path / "a.jsonl.gz", lines)) == WORDS


def test_an_empty_cell_is_none(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", 'id,text\n1,\n2,""\n\n3,c\n')) == [None, None, "c"]
    assert read(write(tmp_path / "a.tsv", "id\ttext\n1\t\n2\tb\n")) == [None, "b"]
    assert read(write(tmp_path / "a.jsonl", '{"id": 1}\n{"text": null}\n{"text": "c"}\n')) == [None, None, "c"]


def test_quotation_marks_are_characters_in_tsv_and_quotes_in_csv(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.tsv", 'text\tx\n"half a quote\t1\na "b"\t2\n')) == ['"half a quote', 'a "b"']
    path = write(tmp_path / "a.csv", 'text,x\n"a, ""b""\nc",1\n say "d",2\n')
    assert read(path, "text", "x") == [['a, "b"\nc', "1"], [' say "d"', "2"]]


def test_a_csv_is_split_as_the_standard_library_splits_it() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        content = "".join(rng.choice('aé",\n\r ') for _ in range(rng.randint(1, 20)))
        lines = list(io.StringIO(content, newline=""))
        if lines[-1].count('"') == content.count('"') == 0 or not rng.randint(0, 1):
            content = content.replace('"', "")
            lines = list(io.StringIO(content, newline=""))
        wanted = list(csv.reader([*lines, "\n"]))
        try:
            found = [cells for _, cells in _split_csv(lines)]
        except ValueError:
            assert any(cells and cells[-1].endswith("\n") for cells in wanted)  # a quotation mark is not closed at the end
        else:
            assert [row for row in found if row] == [row for row in wanted if row], content


OTHERS = [({}, {"url": "x"}), ({"score": 1}, {"score": 1.5}), ({"score": None}, {"score": 1.5}), ({"id": 7}, {"id": [{"a": "b"}]})]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_columns_may_differ(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    rows = [{"text": "a", **one}, {**other, "text": "b"}]
    assert read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))) == ["a", "b"]


FORMS = {
    "array": '[{"text": "a"},\n {"text": "b", "x": 1}]\n',
    "array of strings": '["a",\n"b"]',
    "objects": '{\n "text": "a"\n}\n\n{\n "text": "b"\n}\n',
    "one line": '{"text": "a"} {"text": "b"}\n',
    "lines": '{"text": "a"}\r\n\r\n{"text": "b"}',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_is_an_array_or_objects_one_after_another(tmp_path: Path, kind: str, form: str) -> None:
    path = write(tmp_path / f"a.{kind}", FORMS[form])
    assert read(path) == ["a", "b"]
    assert TableFile(path).columns() == ["text", *["x"] * (form == "array")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for name, content in {"a.csv": "text\na\n", "a.tsv": "text\na\n", "a.json": '["a"]', "a.jsonl.gz": '{"text": "a"}'}.items():
        assert read(write(tmp_path / name, "\ufeff" + content)) == ["a"]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    text = "word, " * 100_000
    assert read(write(tmp_path / "a.csv", f'text\n"{text}"\n')) == [text]


def test_only_the_requested_columns_of_a_parquet_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"t{i}" for i in range(1000)], "label": [None, *range(999)], "struct": [{"text": "x"}] * 1000})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    assert read(tmp_path / "a.parquet", "label", "nowhere", "text") == [[None if i == 0 else i - 1, None, f"t{i}"] for i in range(1000)]
    assert TableFile(tmp_path / "a.parquet").columns() == ["text", "label", "struct"]
    assert next(TableFile(tmp_path / "a.parquet").rows(["text"])).place == "row 1"


def test_rows_and_lines_are_counted_from_1(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\na\n\n"b\nc"\nd\n')
    assert [row.place for row in TableFile(path).rows(["text"])] == ["row 1 (line 2)", "row 2 (line 5)", "row 3 (line 6)"]
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n')
    assert [row.place for row in TableFile(path).rows(["text"])] == ["row 1 (line 1)", "row 2 (line 3)"]


ROWS = "".join(f'{{"text": "{number} {random.Random(number).random()}"}}\n' for number in range(1000)).encode()
BROKEN = [
    ("a.csv", b"text,x\na,1\nb,2,3\n", r" row 2: .*line 3 has 3 cells, the header 2"),
    ("a.csv", b"x,text\n1,a\n2\n", r" row 2: .*line 3 has 1 cells, the header 2"),
    ("a.tsv", b"x\ttext\n1\ta\n2\n", r" row 2: .*line 3 has 1 cells, the header 2"),
    ("a.csv", b'text,x\na,1\n"b,2\nc,3\n', r" row 2: .*quotation mark that line 3 opens is not closed"),
    ("a.csv", b"text\na\ncaf\xe9\n", r" line 3: byte 0xe9 is not UTF-8; convert the file, for example iconv"),
    ("a.jsonl", b'{"text": "a"}\n{"te', r" row 2: .*line 2: no JSON"),
    ("a.jsonl", b'{"text": "a"}\n["b"]\n', r" row 2: .*line 2: list, not an object"),
    ("a.json", b'[{"text": "a"},\n{"text": "b"}', r" row 3: .*\] is missing"),
    ("a.json", b'[{"text": "a"},\n{"text": b}]', r" row 2: .*line 2: no JSON"),
    ("a.json", b"[" * 100_000, r" row 1: .*"),
    ("a.csv", b"", r" row 1: .*empty file"),
    ("a.tsv", b"", r" row 1: .*empty file"),
    ("a.jsonl", b"", r" row 1: .*empty file"),
    ("a.csv.gz", gzip.compress(b"", mtime=0), r" row 1: .*empty file"),
    ("a.parquet", b"", r" row 1: .*file size is 0"),
    ("a.parquet", b"PAR1 and no more", r" row 1: cannot be read as a table"),
    ("a.jsonl.gz", gzip.compress(ROWS)[:-300], r" row \d+: .*ended before the end-of-stream"),
    ("a.jsonl.gz", ROWS, r" row 1: .*Not a gzipped file"),
]


@pytest.mark.parametrize(("name", "content", "complaint"), BROKEN)
def test_a_table_that_cannot_be_read_is_one_line_with_file_and_row(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.") + complaint) as caught:
        TableFile(tmp_path / name).columns()
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_parquet_with_a_damaged_page_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i} {random.Random(i).random()}" for i in range(900)]}), path, row_group_size=300)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.parquet row \d+: cannot be read as a table") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_any_damage_gives_rows_or_the_one_line_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({"text": [f"t{i}" for i in range(50)]}), path)
    else:
        separator = {".csv": ",", ".tsv": "\t"}.get(kind)
        write(path, f"text{separator}x\n" + f'"a"{separator}b\n' * 20 if separator else json.dumps([{"text": "é"}] * 20))
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content[: rng.randint(1, len(content))] if rng.randint(0, 1) else content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)
        except ConfigError as error:
            assert "\n" not in str(error)
