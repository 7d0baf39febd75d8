"""Parts of the watcher in this process, and the order of its actions on a rank and the folder. Watchers beside real ranks:
test_watcher.py."""

import json
import os
import signal
import subprocess
import sys
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from recipes.system.signals import signal_main_thread
from recipes.watch import watcher
from recipes.watch.endings import record_file
from recipes.watch.hang import HangReport, main_frames
from recipes.watch.heartbeat import SIZE, Heartbeat, write_heartbeat
from recipes.watch.shared_folder import SharedFolder, claim_hang_report, write_record
from recipes.watch.watcher import (
    EXIT_SECONDS,
    LOST_SECONDS,
    Stall,
    Watcher,
    WatchTarget,
    append_event,
    process_state,
)
from tests.clock import Clock
from tests.launching import ROOT


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run dir with an events.jsonl."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "events.jsonl").touch()
    return run_dir


@pytest.mark.parametrize("stopped", [False, True])
def test_the_order_is_reports_terminal_log_hang_json_and_a_process_with_a_reused_pid_is_not_killed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stopped: bool
) -> None:
    """The process is not the parent of the watcher, so it is not killed. A stopped rank is woken only after the reports have arrived."""
    other = subprocess.Popen([sys.executable, "-c", IGNORES_ITS_DUMP], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout and other.stdout.readline() == "here\n"
        if stopped:
            os.kill(other.pid, signal.SIGSTOP)
            assert os.waitid(os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
        done = note_work(monkeypatch, run_dir / "watch", capsys)
        target = WatchTarget(str(run_dir / "watch"), 0, ["here"], other.pid, 1, 1.0)
        with TemporaryFile() as stacks:
            Watcher(target, mmap(-1, SIZE), -1, stacks.fileno())._end_hang()
        gather, dump, wake = ["touch", "read"], ["SIGRTMIN+7"], ["SIGRTMIN+8", "SIGCONT", "SIGSTOP"]
        assert done[: done.index("touch", 2)] == ([*gather, *wake] if stopped else [*dump, *gather])
        assert done[-2:] == ["touch", "log after the terminal and before hang.json"], (
            "NFS shows an outdated folder until this client changes it"
        )
        assert other.poll() is None and process_state(other.pid) == ("T" if stopped else "S")
        hang = json.loads((run_dir / "watch" / "hang.json").read_text())
        assert [one["why"] for one in hang["behind"]] == (["stopped"] if stopped else [])
    finally:
        other.kill()
        other.communicate(timeout=10)


@pytest.mark.parametrize(
    ("rank", "others", "seconds"),
    [(0, [], 3.0 + 10.0), (0, [1], 3.0 + 6.0), (1, [0], 25.0)],
    ids=["another rank's record is missing", "another rank's stack is missing", "hang.json is missing"],
)
def test_a_watcher_waits_for_files_of_other_watchers_only_for_a_bounded_time(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, rank: int, others: list[int], seconds: float
) -> None:
    clock, folder = Clock(), run_dir / "watch"
    folder.mkdir()
    for other in others:
        place = {"step": 0, "micro_batch": 0, "phase": "start", "beat": 0, "state": "S", "main_thread": 1}
        record_file(folder, other).write_text(json.dumps({"rank": other, "host": "b", "ended": "hang", "time": 1.0, **place}))
    if rank == 1:
        assert claim_hang_report(folder, 0)
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: None)
    with TemporaryFile() as stacks:
        Watcher(WatchTarget(str(folder), rank, ["a", "b"], 2**22 + 1, 1, 1.0), mmap(-1, SIZE), -1, stacks.fileno())._end_hang()
    assert clock.now - 1000.0 == pytest.approx(seconds, abs=0.5), "the watcher also waits 3 s for the stack of its own rank"
    assert (folder / "hang.json").exists() == (rank == 0)


def test_a_stopped_rank_is_woken_for_its_dump_only_after_all_ranks_have_reported_to_the_first_watcher(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs for a moment, which could unblock a rank that has not reported. Here that rank never does: 10 s."""
    clock, woken, folder = Clock(), list[float](), run_dir / "watch"
    claim_hang_report(folder, 1)
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(watcher, "process_state", lambda pid: "T")
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: woken.append(clock.now - 1000.0))
    with TemporaryFile() as stacks:
        Watcher(WatchTarget(str(folder), 0, ["a", "b"], 2**22 + 1, 1, 1.0), mmap(-1, SIZE), -1, stacks.fileno())._end_hang()
    assert woken == [pytest.approx(10.0, abs=0.5)] and clock.now - 1000.0 == pytest.approx(25.0, abs=0.5)


def test_a_rank_that_does_not_exit_after_its_exit_code_is_killed_but_not_while_it_waits_for_a_disk(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Time without a heartbeat before the exit code, for example in a compilation, does not count. Hang detection is off here."""
    clock, memory, killed = Clock(), mmap(-1, SIZE), list[float]()
    reading, writing = os.pipe()
    ending = {"code": 1, "message": "ValueError: a defect", "time": 1.0, "beat": (clock.now, 1, 7, 0, "forward", False)}
    os.write(writing, json.dumps(ending).encode())

    def select(*args: object) -> tuple[list[int], list[int], list[int]]:
        clock.sleep(1.0)
        if clock.now in (1002, 1100):
            write_heartbeat(memory, int(clock.now), 7, 0, "last save", is_paused=clock.now < 1100)
        return [reading] * (clock.now == 1001), [], []

    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr("recipes.watch.heartbeat.time", clock)
    monkeypatch.setattr(watcher.select, "select", select)
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: killed.append(clock.now) if number == signal.SIGKILL else None)
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: None)
    target = WatchTarget(str(run_dir / "watch"), 0, ["here"], os.getppid(), 1, 0.0)
    with TemporaryFile() as stacks:
        Watcher(target, memory, reading, stacks.fileno()).watch()
    os.close(writing)
    os.close(reading)
    assert killed == [pytest.approx(1100 + EXIT_SECONDS + 3, abs=2)], "3 s are for its stacks"
    assert f"rank 0 on here has ended, but its process {os.getppid()} is still there after 30 s: killed\n" == capsys.readouterr().err
    record = json.loads(record_file(run_dir / "watch", 0).read_text())
    assert record["ended"] == {"code": 1, "message": "ValueError: a defect"} and (record["step"], record["phase"]) == (7, "forward")


@pytest.mark.parametrize(
    ("ended", "changes", "hangs"),
    [
        ("hang", {"seconds": 6.0}, True),
        ("silent", {}, True),
        ({"code": 1, "message": "a defect"}, {}, True),
        ({"code": 0, "message": ""}, {}, False),
        ({"code": 75, "message": ""}, {}, False),
        ("silent", {"seconds": LOST_SECONDS - 1}, False),
        ("silent", {"is_paused": True}, False),
        ("hang", {"is_paused": True, "seconds": 0.0}, True),
        ("silent", {"has_exit_code": True}, False),
    ],
    ids=str,
)
def test_a_rank_without_a_heartbeat_hangs_if_another_rank_has_failed(run_dir: Path, ended: object, changes: dict, hangs: bool) -> None:
    """Otherwise NCCL on another node waits for ten minutes, and the store of a new process group for days."""
    folder, facts = run_dir / "watch", {"seconds": LOST_SECONDS, "is_paused": False, "has_exit_code": False, **changes}
    folder.mkdir()
    report_end(folder, 1, ended)
    watching = Watcher(WatchTarget(str(folder), 0, ["a", "b"], os.getppid(), 1, 60.0), mmap(-1, SIZE), -1, -1)
    watching._stall.seconds, watching._has_exit_code = facts["seconds"], facts["has_exit_code"]
    assert watching._another_hangs(Heartbeat(0.0, 1, 7, 0, "forward", facts["is_paused"])) == hangs


def report_end(folder: Path, rank: int, ended: object) -> None:
    """Write what the watcher of another rank writes into the folder when its rank ends or hangs."""
    if ended == "hang":
        claim_hang_report(folder, rank)
    write_record(folder, {"rank": rank, "host": "b", "ended": ended, "time": 1.0})


IGNORES_ITS_DUMP = """
import signal, time
for number in (signal.SIGRTMIN + 7, signal.SIGRTMIN + 8):
    signal.signal(number, signal.SIG_IGN)
print("here", flush=True)
time.sleep(1000)
"""


def note_work(monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return a list that receives the actions of a watcher in this process on the folder and the rank, in order."""
    done, kill, read = list[str](), os.kill, watcher.read_records

    def log(path: Path, step: int, hang: HangReport) -> None:
        is_first = "hang: " in capsys.readouterr().err and not (folder / "hang.json").exists()
        done.append(f"log {'after the terminal and before' if is_first else 'before the terminal or after'} hang.json")

    monkeypatch.setattr(watcher, "DUMP_SECONDS", 0.05)
    monkeypatch.setattr(watcher.os, "kill", lambda pid, number: done.append(NAMES.get(number, str(number))) or kill(pid, number))
    monkeypatch.setattr(watcher, "signal_main_thread", lambda pid, number: done.append(NAMES[number]) or signal_main_thread(pid, number))
    # This replaces os.utime in the whole process, so other paths are possible too.
    monkeypatch.setattr(watcher.os, "utime", lambda path: done.append("touch") if path == folder else None)
    monkeypatch.setattr(watcher, "read_records", lambda *args: done.append("read") or read(*args))
    monkeypatch.setattr(watcher, "append_event", log)
    return done


NAMES: dict[int, str] = {
    watcher.DUMP_SIGNAL: "SIGRTMIN+7",
    watcher.MAIN_DUMP_SIGNAL: "SIGRTMIN+8",
    signal.SIGCONT: "SIGCONT",
    signal.SIGSTOP: "SIGSTOP",
}


def test_the_watcher_looks_for_other_hangs_every_two_seconds_with_a_timeout_of_one_second(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it waited longer than POLL_SECONDS, the watcher could not watch its own rank."""
    clock, timeouts, do = Clock(), list[float](), SharedFolder.do
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(SharedFolder, "do", lambda self, job, seconds=3.0: timeouts.append(seconds) or do(self, job, seconds))
    own = Watcher(WatchTarget(str(run_dir), 0, ["here"], os.getpid(), 1, 600.0), mmap(-1, SIZE), -1, -1)
    for seconds, is_paused in ((4.9, False), (5.1, False), (0.0, True)):
        own._stall.seconds, clock.now, before = seconds, clock.now + 100.0, len(timeouts)
        for _ in range(8):  # half a second each
            assert not own._another_hangs(Heartbeat(0.0, 1, 0, 0, "data", is_paused))
            clock.now += 0.5
        assert timeouts[before:] == ([] if seconds == 4.9 else [1.0, 1.0])
    for ended, is_hang in (("silent", False), ({"code": 0, "message": ""}, False), ("hang", True)):
        report_end(run_dir, 1, ended)
        clock.now += 2.0
        assert own._another_hangs(Heartbeat(0.0, 1, 0, 0, "save", True)) == is_hang


def test_time_in_which_the_watcher_itself_did_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(watcher.time, "monotonic", lambda: now)
    stall, beat = Stall(), Heartbeat(99.0, 1, 0, 0, "data", False)
    stall.update(beat)
    for now in (101.0, 102.0, 4000.0):  # noqa: B007 - the clock reads it
        stall.update(beat)
    assert stall.seconds == 4.0
    stall.update(beat._replace(seconds=4000.0))
    assert stall.seconds == 0.0


def test_an_event_is_one_line_and_a_missing_log_is_not_created(tmp_path: Path) -> None:
    hang, log = HangReport(3.0, 2, [], "rank 0 on a", "step 4, data"), tmp_path / "events.jsonl"
    append_event(log, 4, hang)
    assert not log.exists()
    log.write_text('{"event": "start"}\n')
    append_event(log, 4, hang)
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == ["start", "hang"]


TWO_THREADS = """
import sys, threading
from pathlib import Path
from recipes.watch.watch import Watch

watch = Watch(Path(sys.argv[1]), 0, ["here"], 0.0)
watch.start()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(watch._files[0], threading.main_thread().ident, flush=True)
threading.Event().wait()
"""


def test_a_stopped_rank_dumps_its_main_thread_alone(run_dir: Path) -> None:
    """Other threads run on beside a dump of their frames, once the rank is woken. One of a hundred dumps of a busy thread crashed it."""
    rank = subprocess.Popen([sys.executable, "-c", TWO_THREADS, str(run_dir / "watch")], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert rank.stdout is not None
        file, main_thread = map(int, rank.stdout.readline().split())
        os.kill(rank.pid, signal.SIGSTOP)
        target = WatchTarget(str(run_dir / "watch"), 0, ["here"], rank.pid, main_thread, 0.0)
        with open(f"/proc/{rank.pid}/fd/{file}", "rb") as stacks:
            stack = Watcher(target, mmap(-1, SIZE), -1, stacks.fileno())._dump(wake=True)
        assert main_frames(stack, main_thread)[-1].endswith(" <module>") and stack.count("most recent call first") == 1
        assert process_state(rank.pid) == watcher.STOPPED
    finally:
        rank.kill()
        rank.communicate()
