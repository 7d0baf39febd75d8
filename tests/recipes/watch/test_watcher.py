"""Watchers beside real processes in place of ranks: which ranks they find, and that no process is left. A whole run:
tests/launch/test_hang.py. Stragglers case by case: test_hang.py. Parts of the watcher: test_watcher_parts.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes.watch.endings import read_endings, read_records, write_roster
from recipes.watch.watcher import POLL_SECONDS
from tests.processes import gone, processes_of

ROOT = Path(__file__).parents[3]
LIMIT = 1.0
PROGRAM = """
import os, re, sys, time
from pathlib import Path
from recipes.watch.watch import Watch
watch = Watch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), float(sys.argv[4]))
watch.start()
watch.beat(4, "agree")
print("here", flush=True)
exec(compile(sys.argv[5], sys.argv[6], "exec"))
time.sleep(1000)
"""
Start = Callable[..., list[subprocess.Popen[str]]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "events.jsonl").touch()
    return run_dir


@pytest.fixture
def start(run_dir: Path) -> Iterator[Start]:
    """Start a process for each piece of code, which runs after the rank's first heartbeat. `files`: the file names in the frames of
    that code, by rank."""
    ranks: list[subprocess.Popen[str]] = []

    def begin(*codes: str, limit: float = LIMIT, folder: Path = run_dir / "watch", files: dict[int, str] | None = None) -> list:
        hosts = ",".join(f"node{rank}" for rank in range(len(codes)))
        if folder.parent.is_dir():
            write_roster(folder, hosts.split(","))
        for rank, code in enumerate(codes):
            args = [sys.executable, "-c", PROGRAM, str(folder), str(rank), hosts, str(limit), code, (files or {}).get(rank, "x.py")]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            ranks.append(subprocess.Popen(args, cwd=ROOT, start_new_session=True, **pipes))  # type: ignore[call-overload]
        for rank in ranks:
            assert rank.stdout and rank.stdout.readline() == "here\n"
        return ranks

    yield begin
    for rank in ranks:
        rank.kill()
        rank.communicate(timeout=10)
        assert gone(rank.pid), processes_of(rank.pid)


def ends(ranks: list[subprocess.Popen[str]], seconds: float = 30) -> str:
    """Return the stderr of all ranks. Fails unless each was killed within `seconds`."""
    stderr = "".join(rank.communicate(timeout=seconds)[1] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [-signal.SIGKILL] * len(ranks), stderr
    return stderr


def behind(run_dir: Path) -> list[tuple[int, str, str]]:
    hang = json.loads((run_dir / "watch" / "hang.json").read_text())
    return [(one["rank"], one["host"], one["why"]) for one in hang["behind"]]


@pytest.mark.parametrize("stopped", [0, 2])
def test_a_stopped_rank_is_the_straggler_and_all_ranks_end(start: Start, run_dir: Path, stopped: int) -> None:
    ranks = start("", "", "")
    os.kill(ranks[stopped].pid, signal.SIGSTOP)
    stderr = ends(ranks)
    line = f"hang: no progress for 1 s; rank {stopped} on node{stopped} is behind (stopped, step 4, agree); stacks in {run_dir}/watch/\n"
    assert stderr == line and behind(run_dir) == [(stopped, f"node{stopped}", "stopped")]
    assert sorted(path.name for path in (run_dir / "watch").iterdir()) == [
        *("hang.json", "hang_reporter.txt", "rank_00000.json", "rank_00000.stack.txt", "rank_00001.json", "rank_00001.stack.txt"),
        *("rank_00002.json", "rank_00002.stack.txt", "ranks.json"),
    ]
    for rank in range(3):
        assert 'File "<string>"' in (run_dir / "watch" / f"rank_{rank:05d}.stack.txt").read_text()
    (event,) = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    assert event["event"] == "hang" and event["step"] == 4 and [one["rank"] for one in event["behind"]] == [stopped]


HOLDS_THE_GIL = 're.match("(a+)+b", 60 * "a")'


def test_the_rank_with_fewer_heartbeats_is_the_straggler_even_if_it_never_releases_the_gil(start: Start, run_dir: Path) -> None:
    stderr = ends(start('watch.beat(4, "forward")', HOLDS_THE_GIL))
    assert behind(run_dir) == [(1, "node1", "others are at step 4, forward")] and stderr.count("\n") == 1
    assert "/re/__init__.py" in (run_dir / "watch" / "rank_00001.stack.txt").read_text()


def test_if_all_are_at_the_same_place_the_rank_outside_of_a_collective_is_the_straggler(start: Start, run_dir: Path) -> None:
    wait = "time.sleep(1000)"
    ends(start(wait, wait, files={1: "site-packages/torch/distributed/distributed_c10d.py"}))
    assert behind(run_dir) == [(0, "node0", "not in a collective, as others are")], "rank 0 reports, and reads the stack of rank 1"


def test_a_rank_in_a_pause_hangs_only_if_another_rank_hangs(start: Start, run_dir: Path) -> None:
    pause = 'with watch.paused("save"):\n    time.sleep(1000)'
    until = run_dir / "until"
    ranks = start(pause, pause, f'with watch.paused("save"):\n    while not Path({str(until)!r}).exists():\n        time.sleep(0.05)')
    time.sleep(1.5 * LIMIT)
    assert not list((run_dir / "watch").glob("rank_*"))
    until.touch()
    stderr = ends(ranks)
    assert "all 3" not in stderr and [rank for rank, _, _ in behind(run_dir)] == [0, 1], stderr


def test_a_rank_that_is_stopped_in_a_pause_hangs(start: Start, run_dir: Path) -> None:
    ranks = start('with watch.paused("save"):\n    print("saving", flush=True)\n    time.sleep(1000)')
    assert ranks[0].stdout and ranks[0].stdout.readline() == "saving\n"
    os.kill(ranks[0].pid, signal.SIGSTOP)
    assert "(stopped, step 4, save)" in ends(ranks)


def test_without_a_limit_there_is_no_hang(start: Start, run_dir: Path) -> None:
    (rank,) = start("", limit=0)
    os.kill(rank.pid, signal.SIGSTOP)
    time.sleep(1.5 * POLL_SECONDS)
    assert rank.poll() is None and not list((run_dir / "watch").glob("rank_*"))


def test_alive_is_a_heartbeat(start: Start, run_dir: Path) -> None:
    (rank,) = start("for _ in range(16):\n    time.sleep(0.1)\n    watch.alive()\nwatch.end(0)\nwatch.close()\nsys.exit()")
    rank.communicate(timeout=20)
    assert rank.returncode == 0 and read_records(run_dir / "watch")[0]["ended"] == {"code": 0, "message": ""}


def test_a_hang_is_reported_and_ended_even_if_the_folder_cannot_be_written(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    """Each watcher reports its own rank only. It cannot read the records of the others, so it must not call them absent."""
    stderr = ends(start("", "", folder=tmp_path / "file" / "watch"))
    lines = [f"hang: no progress for 1 s; rank {rank} on node{rank} is stuck (step 4, agree)" for rank in range(2)]
    assert stderr == "".join(f"{line}; {tmp_path}/file/watch/ cannot be written\n" for line in lines)


def test_a_rank_that_hangs_after_the_others_have_ended_is_the_straggler(start: Start, run_dir: Path) -> None:
    thread = "import threading\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    done, *rest = start("watch.end(0)\nwatch.close()\nsys.exit()", f"{thread}\nwatch.end(0)")
    done.wait(10)
    assert done.returncode == 0
    ends(rest)
    assert behind(run_dir) == [(1, "node1", "others have ended")]
    assert (run_dir / "watch" / "rank_00001.stack.txt").read_text().count("hread 0x") == 2, "the dump has every thread"


def test_a_killed_rank_has_died_without_an_exit_code_at_that_moment(start: Start, run_dir: Path) -> None:
    ranks = start("", "")
    begin = time.time()
    ranks[1].kill()
    assert gone(ranks[1].pid)
    ending = read_endings(run_dir / "watch")[1]
    assert (ending.rank, ending.host, ending.ended, ending.place) == (1, "node1", "silent", "step 4, agree")
    assert begin <= (ending.time or 0) < begin + 5


def test_a_killed_rank_has_ended_although_a_process_that_it_forked_is_alive(start: Start, run_dir: Path) -> None:
    (rank,) = start("child = os.fork()\nif child:\n    print(child, flush=True)", limit=0)
    assert rank.stdout
    child = int(rank.stdout.readline())
    try:
        rank.kill()
        rank.wait(10)
        deadline = time.monotonic() + 30
        while not read_records(run_dir / "watch") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert read_records(run_dir / "watch")[0]["ended"] == "silent"
    finally:
        os.kill(child, signal.SIGKILL)
