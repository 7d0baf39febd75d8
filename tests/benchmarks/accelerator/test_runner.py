"""A check that goes wrong goes wrong alone: the others run, and what was found before is kept."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from accelerator.checks import Check
from accelerator.result import CANNOT, FAIL, OK, Outcome
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
    told: list[Outcome] = []
    Run("cpu", out, time.monotonic() + seconds, told.append).run_lanes(lanes, at_once)
    assert len({one.name for one in told}) == len(told), "each once"
    return {one.name: one for one in told}


def statuses(outcome: Outcome) -> list[str]:
    return [row.status for row in outcome.rows]


def test_a_check_that_raises_dies_or_finds_nothing_fails_alone(tmp_path: Path) -> None:
    lane = [check(name) for name in ("raises", "good", "dies", "nothing")] + [check("good", 60.0, "last")]
    found = run(tmp_path, {"one": lane})
    assert list(found) == ["raises", "good", "dies", "nothing", "good last"]
    assert statuses(found["raises"]) == [OK, FAIL] and statuses(found["dies"]) == [OK, FAIL]
    assert found["raises"].rows[-1].seen == "raised RuntimeError: CUDA error: device-side assert triggered more lines"
    assert "signal 6" in found["dies"].rows[-1].seen and "the last words" in found["dies"].rows[-1].seen
    assert statuses(found["good"]) == statuses(found["good last"]) == [OK, OK] and found["good last"].rows[0].seen == "last"
    assert found["good"].rows[1] != found["good last"].rows[1], "a process that failed is replaced"
    assert statuses(found["nothing"]) == [FAIL]


def test_a_box_that_is_exceeded_is_killed_with_all_it_started(tmp_path: Path) -> None:
    found = run(tmp_path, {"one": [check("hangs", 4.0), check("good")]})
    assert statuses(found["hangs"]) == [OK, FAIL] and "exceeded its time box" in found["hangs"].rows[-1].seen
    assert 4.0 <= found["hangs"].seconds < 6.0
    child = int(found["hangs"].rows[0].seen)
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child lives on")
    assert statuses(found["good"]) == [OK, OK]


def test_after_the_time_for_all_nothing_begins(tmp_path: Path) -> None:
    found = run(tmp_path, {"one": [check("hangs", 60.0), check("good")]}, seconds=4.0)
    assert statuses(found["hangs"])[-1] == FAIL and statuses(found["good"]) == [CANNOT]
    assert "used up" in found["good"].rows[0].seen


def test_lanes_run_side_by_side_and_an_interrupt_ends_them(tmp_path: Path) -> None:
    told: list[Outcome] = []
    running = Run("cpu", tmp_path, time.monotonic() + 60, told.append)
    lanes = {name: [check("hangs", 50.0, name), check("good", 50.0, name)] for name in ("one", "two")}
    thread = threading.Thread(target=running.run_lanes, args=(lanes, 2))
    thread.start()
    time.sleep(3)
    running.is_stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    assert {one.name: statuses(one)[-1] for one in told} == {
        **{f"hangs {name}": FAIL for name in lanes},
        **{f"good {name}": CANNOT for name in lanes},
    }
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_worker_of(int(pid), tmp_path)]


def _is_worker_of(pid: int, out: Path) -> bool:
    try:
        return str(out).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
