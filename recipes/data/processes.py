"""Work handed to worker processes, with results in the order of the tasks. Knows nothing of what the work is."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from recipes.errors import ConfigError

Task = TypeVar("Task")
Result = TypeVar("Result")
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


def follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and do not outlive one that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
