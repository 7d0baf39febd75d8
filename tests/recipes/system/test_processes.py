"""Results are in the order of the tasks for any number of processes. Tasks are read only a few ahead. Dead workers are detected."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import Mock

import pytest

from recipes.errors import ConfigError
from recipes.system import processes
from recipes.system.liveness import read_stat
from recipes.system.processes import STOP_SIGNALS, TASKS_IN_FLIGHT, WorkerLost, Workers, run_in_order, signals_blocked_in_children
from tests.distributed import run_command
from tests.launching import ROOT

MARKS: list[str] = []
WORK_SECONDS = 60


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_are_returned_with_their_tasks_in_order(num_processes: int) -> None:
    assert list(run_in_order(square, range(20), num_processes, doing="squaring")) == [(n, n * n) for n in range(20)]


@pytest.mark.parametrize("num_processes", [0, -1])
@pytest.mark.timeout(30)
def test_less_than_one_process_is_an_error_and_not_a_wait_without_end(num_processes: int) -> None:
    with pytest.raises(AssertionError, match=f"^{num_processes} processes"):
        list(run_in_order(square, range(20), num_processes, doing="squaring"))


def test_tasks_are_read_only_a_few_ahead() -> None:
    read = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = run_in_order(square, tasks(), 2, doing="squaring")
    assert next(results) == (0, 0)
    assert len(read) == 2 * TASKS_IN_FLIGHT
    results.close()


def test_a_killed_process_is_a_config_error_and_an_error_of_the_work_is_raised_as_it_is() -> None:
    with pytest.raises(ConfigError, match="one of 2 squaring processes was killed, probably for lack of memory"):
        list(run_in_order(kill_itself, [9, 9], 2, doing="squaring"))
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_in_order(partial(int, base=10), ["1", "x"], 2, doing="reading"))


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "was killed, probably for lack of memory"),
        (signal.SIGBUS, "was killed by SIGBUS: /dev/shm is full, or a file that it reads was cut short"),
        (signal.SIGABRT, "was killed by SIGABRT, a crash in native code"),
    ],
    ids=str,
)
def test_the_message_says_how_a_worker_was_lost(number: int, cause: str) -> None:
    workers = Workers(kill_itself, 1)
    workers.put(number)
    with pytest.raises(WorkerLost) as caught:
        workers.get()
    assert (str(caught.value), caught.value.code) == (cause, -number)
    assert str(WorkerLost(3)) == "ended with exit code 3"


class OddError(Exception):
    """An error that cannot be loaded from its pickle."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def fail_at(limit: int, number: int) -> int:
    if number == limit:
        raise OddError("number ", str(number))
    return number


def test_an_error_is_raised_in_order_with_its_traceback_even_if_it_cannot_be_unpickled() -> None:
    workers = Workers(partial(fail_at, 1), 2)
    for number in range(4):
        workers.put(number)
    assert workers.get() == 0
    with pytest.raises(RuntimeError) as caught:
        workers.get()
    assert str(caught.value) == "OddError: number 1"
    (note,) = caught.value.__notes__
    assert note.startswith("in a worker process:\nTraceback") and "in fail_at" in note
    with pytest.raises(WorkerLost):  # after the results that had arrived before
        [workers.get() for _ in range(4)]


def stop_itself(number: int) -> None:
    """Like a process that never releases the GIL: none of its threads can end it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def test_close_kills_workers_that_do_not_end_and_wakes_a_waiting_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LEAVE_SECONDS", 0.2)
    workers, lost = Workers(stop_itself, 2), list[BaseException]()

    def wait() -> None:
        with pytest.raises(WorkerLost) as caught:
            workers.get()
        lost.append(caught.value)

    for number in range(2):
        workers.put(number)
    waiting = threading.Thread(target=wait)
    waiting.start()
    begin = time.monotonic()
    workers.close()
    waiting.join(5)
    assert lost and time.monotonic() - begin < 5
    assert not [pid for pid in workers.pids if (stat := read_stat(pid or 0)) and stat.state != "Z"]


NOT_CLOSED = """
import time
from recipes.system.processes import Workers

if __name__ == "__main__":
    workers = Workers(time.sleep, 2)
    for _ in range(4):
        workers.put(1000.0)
    1 / 0
"""


def test_workers_that_are_not_closed_do_not_block_the_exit_of_python(tmp_path: Path) -> None:
    """Workers ignore the signal that Python sends to its children, and Python would join them without a timeout."""
    (tmp_path / "main.py").write_text(NOT_CLOSED)
    done = run_command([sys.executable, tmp_path / "main.py"], ROOT, 30, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def leave_a_mark(task: tuple[str, float]) -> None:
    time.sleep(task[1])
    Path(task[0]).touch()


def test_a_reader_that_stops_early_does_not_wait_for_all_tasks_in_flight(tmp_path: Path) -> None:
    in_flight = 2 * TASKS_IN_FLIGHT
    tasks = [(str(tmp_path / str(number)), 0.1 if number else 0.0) for number in range(in_flight)]
    results = run_in_order(leave_a_mark, tasks, 2, doing="marking")
    next(results)
    results.close()
    assert 1 <= len(list(tmp_path.iterdir())) < in_flight


def count_marks(number: int) -> int:
    return len(MARKS)


def test_a_worker_is_not_a_fork_and_inherits_no_state_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork would copy locked locks without the threads that release them."""
    monkeypatch.setattr(f"{__name__}.MARKS", ["set by the parent"])
    assert list(run_in_order(count_marks, range(2), 2, doing="counting")) == [(0, 0), (1, 0)]
    assert count_marks(0) == 1


def wait_long(path: str) -> None:
    """Write the pid of the worker, and do not return within the test."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(WORK_SECONDS)


def hand_out(path: str) -> None:
    list(run_in_order(wait_long, [path] * 2, 2, doing="waiting"))


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    path, parent = tmp_path / "pid", multiprocessing.get_context("spawn").Process(target=hand_out, args=[str(tmp_path / "pid")])
    parent.start()
    deadline = time.monotonic() + WORK_SECONDS / 2
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.kill()
    parent.join(5)
    worker = int(path.read_text())
    try:
        while (stat := read_stat(worker)) and stat.state != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stat is None or stat.state == "Z", "the worker is still running"
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_child_blocks_signals_from_its_first_instruction_on_and_the_parent_does_not(number: signal.Signals) -> None:
    received = []
    before = signal.signal(number, lambda number, frame: received.append(number))
    try:
        with signals_blocked_in_children():
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            os.kill(child.pid, number)  # long before the child could set a handler
        os.kill(os.getpid(), number)
        assert received == [number]
        child.communicate(b"end\n")
        assert child.returncode == 0
    finally:
        signal.signal(number, before)


def test_a_signal_that_was_blocked_before_the_block_is_blocked_after_it() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        with signals_blocked_in_children():
            assert set(STOP_SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


FIRST_CHILD = """
import multiprocessing, time
from pathlib import Path
from recipes.system.processes import STOP_SIGNALS, signals_blocked_in_children

with signals_blocked_in_children():
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=[30])
    child.start()
lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
mask = int(next(line.split()[1] for line in lines if line.startswith("SigBlk")), 16)
child.kill()
child.join()
print([number.name for number in STOP_SIGNALS if not mask >> number - 1 & 1])
"""


def test_the_first_child_of_a_process_blocks_signals_too() -> None:
    """With the first child Python starts its resource tracker, which unblocks the signals."""
    done = run_command([sys.executable, "-c", FIRST_CHILD], ROOT, 30)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_workers_survive_a_stop_request_to_the_whole_group() -> None:
    """The parent decides. A worker that died of the signal would be reported as out of memory."""
    results = run_in_order(square, range(40), 2, doing="squaring")
    assert next(results) == (0, 0)
    workers = multiprocessing.active_children()
    assert len(workers) >= 1
    for worker in workers:
        for number in STOP_SIGNALS:
            os.kill(worker.pid or 0, number)
    assert list(results) == [(n, n * n) for n in range(1, 40)]
    assert not any(worker.is_alive() for worker in workers)


def test_workers_of_a_fork_server_ignore_stop_requests_that_the_server_receives() -> None:
    """Another library may have started the fork server."""
    forkserver.ensure_running()
    workers: Workers[int, int] = Workers(square, 1, method="forkserver")
    workers.put(2)
    assert workers.get() == 4
    for number in STOP_SIGNALS:
        os.kill(workers.pids[0] or 0, number)
    workers.put(3)
    assert workers.get() == 9
    workers.close()


def test_closing_ends_the_processes_where_no_descriptor_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a batch could not be received for that reason."""
    workers = Workers(square, 1)
    workers.put(2)
    assert workers.get() == 4
    monkeypatch.setattr(os, "dup", Mock(side_effect=OSError(24, "Too many open files")))
    try:
        workers.close()
        assert not [pid for pid in workers.pids if (stat := read_stat(pid or 0)) and stat.state != "Z"]
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # Python would wait for them at its end
