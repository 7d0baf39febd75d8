"""A file that a user writes: comments are left out, and each fault is one line with its place."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.system.json_object import MAX_DEPTH, read_json_object


def read(path: Path) -> dict:
    return read_json_object(path, flag="--thing ", what="a thing", where="others are in things/")


def test_comments_are_left_out_at_every_level(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"_why": 1, "a": {"//": "x", "b": [1]}}', encoding="utf-8")
    assert read(path) == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[1]", "holds a list, must be a JSON object {...}"),
        (b'{"a": 1,}', "broken JSON at line 1, column 9"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice in one object; remove one"),
        (b"\xff", "not UTF-8 text (byte 0); name a thing, which is JSON"),
        (b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", "nested more than 100 levels deep, which a thing is not"),
        (b'{"a": ' + b"1" * 5000 + b"}", "an integer has more than 4300 digits; shorten it"),
    ],
)
def test_a_fault_has_its_place(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {complaint}")


def test_a_missing_file_has_the_flag_and_where_others_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "a.json")
    assert str(caught.value) == f"--thing {tmp_path / 'a.json'}: No such file or directory; others are in things/"
