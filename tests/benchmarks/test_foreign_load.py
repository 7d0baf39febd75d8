"""A benchmark on a busy machine says so: the load by other processes is measured."""

import subprocess
import sys
import time

import pytest

import foreign_load
from foreign_load import ForeignLoad, busy_line, parse_busy

TABLE = """cpu  999 999 999 999 999 999 999 999 0 0
cpu0 100 1 10 5000 70 2 3 4 50 0
cpu1 200 0 20 6000 80 0 0 0 0 0
cpu2 900 900 900 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_ticks_are_all_but_idle_and_waiting_on_the_cores_that_this_process_may_use() -> None:
    assert parse_busy(TABLE, {0, 1}) == (100 + 1 + 10 + 2 + 3 + 4) + (200 + 20)


def test_the_work_of_another_process_is_seen() -> None:
    spin = "import time; end = time.time() + 20\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", spin])
    try:
        load = ForeignLoad()
        time.sleep(0.6)
        seen = load.cores()
    finally:
        other.kill()
        other.wait()
    assert seen is not None and seen > 0.2


def test_the_work_of_this_process_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, own, clock = iter([100.0, 107.0]), iter([10.0, 14.0]), iter([50.0, 52.0])
    monkeypatch.setattr(foreign_load, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(foreign_load, "own_seconds", lambda: next(own))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert ForeignLoad().cores() == (7.0 - 4.0) / 2.0


def test_the_line_has_the_numbers_and_is_left_out_on_a_quiet_machine() -> None:
    assert busy_line(0.8, 2) == "busy: other processes used 0.8 of 2 cores; single times are too long, compare ratios only"
    assert busy_line(0.05, 2) is None and busy_line(None, 2) is None
