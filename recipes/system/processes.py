"""Starts worker processes, sends tasks to them, returns the results in the order of the tasks, detects a worker that has died, and ends
them. No other module starts worker processes. Independent of the kind of work. Torch-free."""

import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from threading import Thread
from types import FrameType
from typing import Any, Generic, Literal, TypeVar

from recipes.errors import ConfigError
from recipes.system.terminal import protect_terminal

Task = TypeVar("Task")
Result = TypeVar("Result")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""Sent by Slurm and launchers, by Ctrl-C, before the time limit, and by a terminal that closes, in this order."""
TASKS_IN_FLIGHT = 4  # per process: bounds memory, and keeps workers busy while the reader pauses
TASKS_AHEAD = 2
"""How many tasks without a result a process may have."""
LEAVE_SECONDS = 2.0
"""How long a process may take to finish its task after the result is no longer needed."""
CAUSES = {
    signal.SIGKILL: "was killed, probably for lack of memory",
    signal.SIGBUS: "was killed by SIGBUS: /dev/shm is full, or a file that it reads was cut short",
}


class WorkerLost(Exception):
    """A worker process has ended unexpectedly. The text says how, and is meant to follow the name of the process."""

    def __init__(self, code: int | None) -> None:
        """`code`: the exit code of the worker process; negative if a signal ended it, None if it is unknown."""
        self.code = code
        if code is None or code >= 0:
            cause = f"ended with exit code {code}"
        else:
            cause = CAUSES.get(signal.Signals(-code), f"was killed by {signal.Signals(-code).name}, a crash in native code")
        super().__init__(cause)


class Workers(Generic[Task, Result]):
    """Processes that do `work`, with results in the order of the tasks.

    They end at close(), when Python ends, or when this process is gone, whichever comes first, and always within LEAVE_SECONDS. Only one
    thread may call put() and get(); any thread may call close().
    """

    def __init__(
        self,
        work: Callable[[Task], Result],
        num_processes: int,
        *,
        method: Literal["spawn", "forkserver"] = "spawn",
        begin: Callable[[], object] = tuple,
    ) -> None:
        """Prepare up to `num_processes` processes. A process starts when there is a task and all that run are busy.

        `method`: how Python starts them. Each calls `begin` once, then `work` for each of its tasks. All four (`work`, `begin`, tasks,
        results) are pickled.
        """
        assert num_processes >= 1, f"{num_processes} processes would never return a result"
        # No fork of this process, because its threads (torch, gloo) may hold locks.
        self._context: Any = multiprocessing.get_context(method)
        self._target = work, begin
        self._num_processes = num_processes
        self._processes: dict[Connection, BaseProcess] = {}
        self._working: dict[Connection, deque[int]] = {}
        self._queued: deque[tuple[int, Task]] = deque()
        self._results: dict[int, tuple[Any, BaseException | None]] = {}
        self._num_put = self._num_taken = 0
        # When Python ends, it joins every child process without a timeout. It calls finalizers before that.
        self._end_processes = util.Finalize(self, _end_processes, (self._processes,), exitpriority=100)

    @property
    def pids(self) -> list[int | None]:
        """The pids of the processes that were started."""
        return [process.pid for process in self._processes.values()]

    def put(self, task: Task) -> None:
        """Queue one task for the processes, without waiting for its result."""
        self._queued.append((self._num_put, task))
        self._num_put += 1
        self._send_tasks()

    def get(self) -> Result:
        """Return the result of the next task, in the order of put(). Waits until it is computed.

        Raises: the error that `work` raised for this task; WorkerLost if a process died, or after close().
        """
        while self._num_taken not in self._results:
            for pipe in wait(list(self._working)):
                self._receive(pipe)  # type: ignore[arg-type]
            self._send_tasks()
        result, error = self._results.pop(self._num_taken)
        self._num_taken += 1
        if error is not None:
            self.close()
            raise error
        return result

    def close(self) -> None:
        """End the processes. A process that is still busy after LEAVE_SECONDS is killed."""
        self._end_processes()

    def _send_tasks(self) -> None:
        """Send queued tasks to the processes with the fewest tasks, at most TASKS_AHEAD to each. Start further processes while all are
        busy."""
        while self._queued:
            pipe = min(self._working, key=lambda pipe: len(self._working[pipe]), default=None)
            if len(self._processes) < self._num_processes and (pipe is None or self._working[pipe]):
                pipe = self._start()
            if pipe is None or len(self._working[pipe]) >= TASKS_AHEAD:
                return
            number, task = self._queued.popleft()
            self._working[pipe].append(number)
            with suppress(ConnectionError):  # the process has ended; _receive detects that
                pipe.send(task)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(*self._target, theirs), daemon=True)
        with signals_blocked_in_children():
            process.start()
        theirs.close()
        self._processes[ours], self._working[ours] = process, deque()
        return ours

    def _receive(self, pipe: Connection) -> None:
        process = self._processes[pipe]
        try:
            result = pipe.recv()
        except (EOFError, OSError) as error:
            process.join(1)
            if process.exitcode is None and not isinstance(error, EOFError):
                raise  # an error of this process, such as too many open files
            raise WorkerLost(process.exitcode) from error
        self._results[self._working[pipe].popleft()] = result


def _end_processes(processes: dict[Connection, BaseProcess]) -> None:
    for pipe in list(processes):
        with suppress(OSError):
            end = socket.socket(fileno=pipe.fileno())  # no os.dup: there may be no free descriptor
            try:
                end.shutdown(socket.SHUT_RDWR)  # unlike close(), it wakes a thread that waits for the pipe
            finally:
                end.detach()  # the descriptor stays the pipe's
    deadline = time.monotonic() + LEAVE_SECONDS
    for process in list(processes.values()):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join(1)


def _serve(work: Callable[[Any], Any], begin: Callable[[], object], pipe: Connection) -> None:
    """The main function of a worker process: call `begin`, then do the tasks that arrive through `pipe`, and send the results back. It
    ignores stop requests, which reach the whole process group: the parent decides when its workers end."""
    protect_terminal()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    tasks: SimpleQueue[tuple[Any] | None] = SimpleQueue()
    Thread(target=_receive_tasks, args=(pipe, tasks), daemon=True).start()
    begin()
    while (task := tasks.get()) is not None:
        try:
            result = ForkingPickler.dumps((work(*task), None))
        except Exception as error:
            with suppress(ConnectionError):
                pipe.send((None, _picklable(error)))
            while tasks.get() is not None:
                pass  # stay alive until the parent has read earlier results, whose memory belongs to this process
            raise SystemExit(1) from error  # without a traceback: the parent raises the error
        try:
            pipe.send_bytes(result)
        except ConnectionError:
            return


def _receive_tasks(pipe: Connection, tasks: SimpleQueue[tuple[Any] | None]) -> None:
    """Move every task from `pipe` into the queue `tasks` as soon as it arrives, so that the parent never waits.

    When the parent closes the pipe or is gone, put None into the queue as its end. If this process still runs LEAVE_SECONDS later, end it.
    """
    try:
        with suppress(EOFError, OSError):
            while True:
                tasks.put((pipe.recv(),))
    finally:
        tasks.put(None)
    time.sleep(LEAVE_SECONDS)
    os._exit(1)


def _picklable(error: Exception) -> Exception:
    """Return a copy of `error` with the traceback as a note. If `error` cannot be pickled, it is a RuntimeError with its text."""
    note = f"in a worker process:\n{traceback.format_exc()}"
    try:
        found = pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError, ValueError, LookupError):
        found = RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note(note)
    return found


def run_in_order(
    work: Callable[[Task], Result], tasks: Iterable[Task], num_processes: int, *, doing: str
) -> Generator[tuple[Task, Result], None, None]:
    """Yield (task, work(task)) for each task, in order, computed by `num_processes` worker processes (1: by this process alone).

    `work`, the tasks and the results are pickled. `doing`: what the processes do, for messages. Closing the generator ends them.

    Raises: ConfigError if a process is killed.
    """
    if num_processes == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    workers, waiting = Workers(work, num_processes), deque[Task]()
    try:
        for task in tasks:
            workers.put(task)
            waiting.append(task)
            if len(waiting) >= num_processes * TASKS_IN_FLIGHT:
                yield waiting.popleft(), workers.get()
        while waiting:
            yield waiting.popleft(), workers.get()
    except WorkerLost as lost:
        raise ConfigError(f"one of {num_processes} {doing} processes {lost}; use fewer or a machine with more") from lost
    finally:
        workers.close()


@contextmanager
def signals_blocked_in_children() -> Iterator[None]:
    """Block stop requests in the processes that are started in this block, and in their children.

    A stop request may reach the whole process group, but the parent decides when children end. The signals are blocked from the first
    instruction on, which a signal handler in the child could not guarantee.
    """
    with stop_signals_blocked():
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # starting the tracker lifts the mask
        yield


def caught_stop_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to stop: STOP_SIGNALS, without SIGHUP if nohup has it ignored."""
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (number == signal.SIGHUP and is_nohup)]


@contextmanager
def handling_stop_requests(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handler` at a request to stop in this block, instead of ending the process."""
    previous = {number: signal.signal(number, handler) for number in caught_stop_signals()}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Delay stop requests (STOP_SIGNALS) until the end of this block. Processes that are started in it keep these signals blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
