"""Work handed to worker processes, with results in the order of the tasks. Knows nothing of what the work is."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TypeVar

from recipes.errors import ConfigError
from recipes.system.terminal import protect_terminal

Task = TypeVar("Task")
Result = TypeVar("Result")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""Slurm's and launchers', the keyboard's, a warning before the time limit, a terminal that closes."""
TASKS_IN_FLIGHT = 4  # per process: bounds memory, hides the reader's pauses


def run_in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], num_processes: int, *, doing: str
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with work(task), in order, done by that many processes (1: by this one). `doing` names them in messages.

    `work` and the tasks are pickled. Closing the generator ends the processes. Raises: ConfigError if a process is killed.
    """
    if num_processes == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    # Spawned, not forked: the caller may have threads (torch, gloo) that a fork would leave locked.
    pool = ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn"), initializer=follow_parent)
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    try:
        for task in tasks:
            with signals_blocked_in_children():
                waiting.append((task, pool.submit(work, task)))
            if len(waiting) >= num_processes * TASKS_IN_FLIGHT:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            f"one of {num_processes} {doing} processes was killed, probably for lack of memory; use fewer or a machine with more"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def signals_blocked_in_children() -> Iterator[None]:
    """Processes started in this block, and theirs, never get a stop request: it may reach the whole process group, and the parent
    decides. From their first instruction on, which a handler of their own could not promise."""
    with stop_signals_blocked():
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # starting the tracker lifts the mask
        yield


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """In this block stop requests wait, and what is started inherits that for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """In a worker: do not outlive a parent that was killed, nor fail for what cannot be printed."""
    protect_terminal()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
