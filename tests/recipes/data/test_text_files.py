"""Plain text files: what a paragraph is, and errors about files that are not text."""

import gzip
from pathlib import Path

import pytest

from recipes.data import text_files
from recipes.data.text_files import read_paragraphs, split_paragraphs
from recipes.errors import ConfigError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
def test_bom_carriage_returns_and_form_feeds_disappear(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "\ufeffFirst caf\u00e9.\r\n\r\n\fSecond\fline.\r\n".encode() + b"x" * 200 + b"\r\n")
    assert list(read_paragraphs(path)) == ["First caf\u00e9.", "Second line.", "x" * 200]


def test_hard_wrapped_lines_are_joined_up_to_a_blank_line() -> None:
    lines = ["one two", "three", "", "", "four", "  ", "five", "six"]
    assert list(split_paragraphs(lines)) == ["one two three", "four", "five six"]
    assert list(split_paragraphs(["one", "two", " \n", "three\n"])) == ["one two", "three"]


def test_a_hard_wrapped_paragraph_that_does_not_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 7)
    assert list(split_paragraphs([*["one"] * 6, "", "end"])) == ["one one one", "one one one", "end"]


def test_without_blank_lines_every_line_is_a_paragraph() -> None:
    assert list(split_paragraphs(["one two", "three"])) == ["one two", "three"]


def test_long_lines_are_paragraphs_even_between_blank_lines() -> None:
    long = "word " * 60
    assert list(split_paragraphs([long, "short", "", long, "", "end"])) == [long.strip(), "short", long.strip(), "end"]


def test_a_line_longer_than_the_buffer_loses_no_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 7)  # cuts inside the two-byte characters
    path = write(tmp_path / "long.txt", ("\u00e9" * 50 + "\nend\n").encode())
    assert "".join(read_paragraphs(path)) == "\u00e9" * 50 + "end"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("latin.txt", b"good\n" * 4000 + "caf\u00e9\n".encode("latin-1"), r"latin\.txt line 4001: byte 0xe9 is not UTF-8.*iconv"),
        ("cut.txt", b"good\n\xc3", r"cut\.txt line 2: byte 0xc3 is not UTF-8"),
        ("picture.txt", b"one\ntwo\x00three\n", r"picture\.txt line 2: a NUL byte"),
        ("latin.txt.gz", b"good\ncaf\xe9\n", r"latin\.txt\.gz line 2: byte 0xe9"),
    ],
)
def test_the_error_about_text_that_is_not_utf8_has_file_and_line(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        list(read_paragraphs(write(tmp_path / name, content)))


def test_broken_and_truncated_gzip_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "plain.txt.gz").write_bytes(b"no gzip at all")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(bytes(range(97, 120)) * 1000)[:-20])
    for name in ("plain.txt.gz", "cut.txt.gz"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read"):
            list(read_paragraphs(tmp_path / name))
