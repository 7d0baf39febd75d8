"""Progress: lines in a log, and silence where nobody looks."""

import pytest

from recipes.data import progress
from recipes.data.progress import ByteProgress


def test_a_log_gets_a_line_now_and_then_with_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    lines: list[str] = []
    counted = ByteProgress("tokenizing", 4_000_000, show_bar=False, log=lines.append)
    counted.add(1_000_000)
    counted.close()
    assert len(lines) == 1
    assert lines[0].startswith("tokenizing: 1.0 of 4.0 MB in ") and lines[0].endswith(" MB/s")


def test_no_bar_is_drawn_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    counted = ByteProgress("reading", 0, show_bar=True, log=lambda line: None)
    counted.add(10)
    counted.close()
    assert capsys.readouterr() == ("", "")
    assert counted.num_bytes == 10
