"""A failed check does not affect the others: they run, and earlier results are kept."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from accelerator.checks import Check
from accelerator.result import CANNOT, FAIL, OK, Outcome, Row
from accelerator.runner import Run

ROOT = Path(__file__).parents[3]
FAULTY = "tests.benchmarks.accelerator.faulty"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield


def check(function: str, seconds: float = 60.0, *arguments: str) -> Check:
    return Check(f"{function} {' '.join(arguments)}".strip(), FAULTY, function, seconds, arguments)


def run(out: Path, lanes: dict[str, list[Check]], *, seconds: float = 120.0, at_once: int = 1) -> dict[str, Outcome]:
    outcomes: list[Outcome] = []
    Run("cpu", out, time.monotonic() + seconds, outcomes.append).run_lanes(lanes, at_once)
    assert len({one.name for one in outcomes}) == len(outcomes), "each once"
    return {one.name: one for one in outcomes}


def statuses(outcome: Outcome) -> list[str]:
    return [row.status for row in outcome.rows]


def test_a_check_that_raises_dies_or_finds_nothing_fails_alone(tmp_path: Path) -> None:
    lane = [check(name) for name in ("raises", "good", "dies", "nothing")] + [check("good", 60.0, "last")]
    found = run(tmp_path, {"one": lane})
    assert list(found) == ["raises", "good", "dies", "nothing", "good last"]
    assert statuses(found["raises"]) == [OK, FAIL] and statuses(found["dies"]) == [OK, FAIL]
    assert found["raises"].rows[-1].seen == "raised RuntimeError: CUDA error: device-side assert triggered more lines"
    assert "signal 6" in found["dies"].rows[-1].seen and "the last line" in found["dies"].rows[-1].seen
    assert statuses(found["good"]) == statuses(found["good last"]) == [OK, OK] and found["good last"].rows[0].seen == "last"
    assert found["good"].rows[1] != found["good last"].rows[1], "a process that failed is replaced"
    assert statuses(found["nothing"]) == [FAIL]


def test_what_does_not_fit_into_memory_is_no_failure_and_ends_the_process(tmp_path: Path) -> None:
    found = run(tmp_path, {"one": [check("good", 60.0, "first"), check("does_not_fit"), check("good")]})
    assert found["does_not_fit"].rows[-1] == Row("the check itself", CANNOT, "does not fit: CUDA out of memory")
    assert found["good first"].rows[1] != found["good"].rows[1]


def test_a_check_over_its_time_limit_is_killed_with_all_descendants_even_in_their_own_sessions(tmp_path: Path) -> None:
    found = run(tmp_path, {"one": [check("hangs", 5.0), check("good")], "two": [check("leaves_ranks", 5.0)]}, at_once=2)
    for name in ("hangs", "leaves_ranks"):
        assert statuses(found[name]) == [OK, FAIL] and "exceeded its time box" in found[name].rows[-1].seen
        assert found[name].seconds >= 5.0 and is_gone(int(found[name].rows[0].seen))
    assert statuses(found["good"]) == [OK, OK]


def is_gone(pid: int, seconds: float = 5.0) -> bool:
    """True if a process ends within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_each_check_begins_with_an_empty_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert run(tmp_path, {"one": [check("writes_a_file")]})["writes_a_file"].rows[0].seen == "[]"


KILLED = """
import sys, time
from pathlib import Path
from accelerator.checks import Check
from accelerator.runner import Run
checks = [Check("leaves_ranks", "tests.benchmarks.accelerator.faulty", "leaves_ranks", 90.0)]
Run("cpu", Path(sys.argv[1]), time.monotonic() + 90, print).run_lanes({"one": checks}, 1)
"""


def test_all_processes_end_when_the_parent_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'benchmarks'}")
    parent = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    deadline = time.monotonic() + 30
    while len(own := [pid for pid in all_pids() if _is_worker_of(pid, tmp_path)]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    (worker,) = [pid for pid in own if pid != parent.pid]
    while not (ranks := children_of(worker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert ranks and is_gone(worker) and all(map(is_gone, ranks))


def all_pids() -> list[int]:
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]


def children_of(parent: int) -> list[int]:
    found = []
    for pid in all_pids():
        try:
            if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(pid)
        except OSError:
            continue
    return found


def test_no_check_begins_after_the_time_for_all_is_used_up(tmp_path: Path) -> None:
    found = run(tmp_path, {"one": [check("hangs", 60.0), check("good")]}, seconds=2.0)
    for outcome in found.values():
        assert outcome.rows[-1] == Row("the check itself", CANNOT, "the time for all checks was used up")


def test_lanes_run_side_by_side_and_an_interrupt_ends_them(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    running = Run("cpu", tmp_path, time.monotonic() + 60, outcomes.append)
    lanes = {name: [check("hangs", 50.0, name), check("good", 50.0, name)] for name in ("one", "two")}
    thread = threading.Thread(target=running.run_lanes, args=(lanes, 2))
    thread.start()
    deadline = time.monotonic() + 30
    while sum(len(children_of(pid)) for pid in all_pids() if _is_worker_of(pid, tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    running.is_stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    assert {one.name: (one.rows[-1].status, one.rows[-1].seen) for one in outcomes} == {
        f"{what} {name}": (CANNOT, "interrupted") for what in ("hangs", "good") for name in lanes
    }
    assert all(statuses(one)[0] == OK for one in outcomes if one.name.startswith("hangs")), "both had begun"
    assert not [pid for pid in all_pids() if _is_worker_of(pid, tmp_path)]


def _is_worker_of(pid: int, out: Path) -> bool:
    try:
        return str(out).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
