"""Why a run failed, from its output."""

from pathlib import Path

import pytest

from recipes.study.failure import BLOCK, ending_of, printed_error

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: bad\n\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ""),
        ("\n \n", ""),
        ("step 1\nerror: no disk; free it\ndone with it\n", "no disk; free it"),
        ("error: first\nerror: second\n", "second"),
        (TRACE, "ValueError: bad"),
        ("no newline at the end", "no newline at the end"),
        ("error: ä\n", "ä"),
        ("x" * (3 * BLOCK) + "\nerror: at the end of a long log\n", "at the end of a long log"),
    ],
)
def test_the_last_error_line_counts_else_the_last_line(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text, encoding="utf-8")
    assert printed_error(tmp_path / "log") == error


def test_bytes_that_are_no_text_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe\nerror: bad \xff byte\n")
    assert printed_error(tmp_path / "log").startswith("bad ")


def test_a_log_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert printed_error(tmp_path / "missing") == "" and printed_error(tmp_path) == ""


def test_an_ending_is_the_signal_the_error_or_the_code(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("error: no disk\n")
    assert ending_of(-9, tmp_path / "log") == "killed by signal 9"
    assert ending_of(2, tmp_path / "log") == "no disk"
    assert ending_of(5, tmp_path / "missing") == "ended with exit code 5"
