"""Results in the order of the tasks whatever the number of processes; a reader that is not outrun; workers that die are noticed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from recipes.errors import ConfigError
from recipes.processes import STOP_SIGNALS, TASKS_IN_FLIGHT, deaf_children, run_in_order


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_with_their_tasks_in_order(num_processes: int) -> None:
    assert list(run_in_order(square, range(20), num_processes, doing="squaring")) == [(n, n * n) for n in range(20)]


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


def test_a_killed_process_is_one_line_and_an_error_of_the_work_its_own() -> None:
    with pytest.raises(ConfigError, match="one of 2 squaring processes was killed, probably for lack of memory"):
        list(run_in_order(os._exit, [9, 9], 2, doing="squaring"))
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_in_order(partial(int, base=10), ["1", "x"], 2, doing="reading"))


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_child_is_deaf_from_its_first_instruction_on_and_the_parent_is_not(number: signal.Signals) -> None:
    heard = []
    before = signal.signal(number, lambda number, frame: heard.append(number))
    try:
        with deaf_children():
            child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            os.kill(child.pid, number)  # long before it could ask for anything
        os.kill(os.getpid(), number)
        assert heard == [number]
        child.communicate(b"end\n")
        assert child.returncode == 0
    finally:
        signal.signal(number, before)


def test_workers_survive_a_stop_request_to_the_whole_group() -> None:
    """The parent decides; a worker that died of it would be taken for one that had no memory."""
    results = run_in_order(square, range(40), 2, doing="squaring")
    assert next(results) == (0, 0)
    workers = multiprocessing.active_children()
    assert len(workers) >= 1
    for worker in workers:
        for number in STOP_SIGNALS:
            os.kill(worker.pid or 0, number)
    assert list(results) == [(n, n * n) for n in range(1, 40)]
    assert not any(worker.is_alive() for worker in workers)
