"""Progress: lines in a log, and a bar only on a terminal."""

from types import SimpleNamespace

import pytest

from recipes.data import progress
from recipes.data.progress import ByteProgress, ItemProgress


def test_a_log_gets_a_line_with_the_speed_every_20_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    lines: list[str] = []
    counted = ByteProgress("tokenizing", 8_000_000, show_bar=False, log=lines.append)
    for now in (110.0, 121.0, 122.0, 140.0, 142.0):
        clock.append(now)
        counted.add(1_000_000)
    counted.close()
    assert lines == ["tokenizing: 2.0 of 8.0 MB in 21.0 s, 0.1 MB/s", "tokenizing: 5.0 of 8.0 MB in 42.0 s, 0.1 MB/s"]


def test_a_bar_counts_every_byte_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    bar = SimpleNamespace(update=calls.append, close=lambda: calls.append("closed"))
    monkeypatch.setattr(progress, "_build_bar", lambda label, total, unit: calls.append((label, total, unit)) or bar)
    monkeypatch.setattr(progress, "terminal_columns", lambda: 80)
    counted = ByteProgress("reading", 40, show_bar=True, log=lambda line: None)
    counted.add(10)
    counted.add(30)
    counted.close()
    assert calls == [("reading", 40, "B"), 10, 30, "closed"]


def test_items_are_counted_in_their_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[-1]))
    lines: list[str] = []
    counted = ItemProgress("features", 2000, unit="examples", log=lines.append)
    clock.append(25.0)
    counted.add(1500)
    assert lines == ["features: 1,500 of 2,000 examples in 25.0 s, 60.0 a second"]


@pytest.mark.parametrize(("show_bar", "columns", "is_drawn"), [(True, 80, True), (True, 0, False), (True, None, False), (False, 80, False)])
def test_a_bar_is_drawn_on_a_terminal_if_show_bar(
    show_bar: bool, columns: int | None, is_drawn: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "terminal_columns", lambda: columns)
    counted = ByteProgress("reading", 0, show_bar=show_bar, log=lambda line: None)
    counted.add(10)
    counted.close()
    drawn = capsys.readouterr()
    assert drawn.out == "" and ("reading" in drawn.err) == is_drawn
    assert counted.num_bytes == 10
