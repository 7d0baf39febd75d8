"""One watcher beside the records of 511 other ranks on 64 nodes, on a disk that needs 10 ms for each file."""

import json
import os
import threading
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from recipes.watch import endings, watcher
from recipes.watch.heartbeat import SIZE, Heartbeat, write_heartbeat
from recipes.watch.watcher import MOST_READS, Watcher, WatchTarget
from tests.clock import Clock

HOSTS = [f"node{rank // 8}" for rank in range(512)]
FINE = {"code": 0, "message": ""}


def write_others(folder: Path, ended: object, odd: dict[str, object]) -> None:
    """Write the records of all ranks but 0, which ended or hang in one place. `odd`: what differs for rank 300, which has no record if
    nothing does."""
    folder.mkdir()
    place = {"step": 7, "micro_batch": 0, "phase": "agree", "beat": 70, "state": "S", "main_thread": 1, "frames": ["loop.py:1 run"]}
    for rank in range(1, len(HOSTS)):
        if rank != 300 or odd:
            facts = {"rank": rank, "host": HOSTS[rank], "time": 1.0, "ended": ended, **place}
            endings.record_file(folder, rank).write_text(json.dumps(facts | (odd if rank == 300 else {})))


class SlowDisk:
    """Lets 10 ms pass on the clock for each record that is opened, one after another, and counts those of each pass."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: list[int] = []
        read, one_at_a_time = endings._read, threading.Lock()

        def read_slowly(path: Path) -> Any:
            with one_at_a_time:
                clock.now += 0.01
                self.reads[-1] += 1
            return read(path)

        def count(*args: Any) -> dict[int, Any]:
            self.reads.append(0)
            return endings.read_records(*args)

        monkeypatch.setattr(endings, "_read", read_slowly)
        monkeypatch.setattr(watcher, "read_records", count)


@pytest.mark.parametrize(
    ("ended", "odd", "why"),
    [
        ("hang", {"beat": 69}, "others are at step 7, agree"),
        ("hang", {"ended": "silent"}, "has died without an exit code"),
        (FINE, {"ended": {"code": 1, "message": "a defect"}}, "has ended with exit code 1"),
        ("hang", {}, "no answer: its node is frozen or gone, or its watcher is"),
    ],
    ids=["a straggler", "a death", "an error, and all others are done", "a frozen rank"],
)
def test_the_real_straggler_is_named_and_a_pass_reads_at_most_64_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: object, odd: dict[str, object], why: str
) -> None:
    clock, folder, memory = Clock(), tmp_path / "watch", mmap(-1, SIZE)
    write_others(folder, ended, odd)
    write_heartbeat(memory, 70, 7, 0, "agree", is_paused=False)
    disk = SlowDisk(clock, monkeypatch)
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: None)
    with TemporaryFile() as stacks:
        Watcher(WatchTarget(str(folder), 0, HOSTS, 2**22 + 1, 1, 1.0), memory, -1, stacks.fileno())._end_hang()
    (behind,) = json.loads((folder / "hang.json").read_bytes())["behind"]
    assert (behind["rank"], behind["host"], behind["why"]) == (300, "node37", why)
    assert max(disk.reads) <= MOST_READS == 64
    assert sum(disk.reads) == len(HOSTS) - (1 if odd else 2), "no record is read twice"
    assert clock.now - 1000.0 < 30


def test_a_watcher_that_is_not_the_first_reads_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside a healthy rank in a pause, while 511 others have ended, nor if its rank hangs and another watcher reports that."""
    clock, folder = Clock(), tmp_path / "watch"
    write_others(folder, FINE, {"beat": 71})
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: None)
    monkeypatch.setattr(endings, "_read", lambda path: pytest.fail("a record was opened"))
    with TemporaryFile() as stacks:
        own = Watcher(WatchTarget(str(folder), 0, HOSTS, os.getpid(), 1, 600.0), mmap(-1, SIZE), -1, stacks.fileno())
        assert not own._another_hangs(Heartbeat(0.0, 1, 0, 0, "last save", True))
        (folder / "hang_reporter.txt").write_text("8\n")
        (folder / "hang.json").touch()
        clock.now += 2.0
        assert own._another_hangs(Heartbeat(0.0, 1, 0, 0, "last save", True))
        own._end_hang()
