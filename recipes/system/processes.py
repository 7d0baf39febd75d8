"""Work handed to worker processes, with results in the order of the tasks: the one place that starts worker processes, notices that one
has died, and ends them. Knows nothing of what the work is. Torch-free."""

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
from typing import Any, Generic, Literal, TypeVar

from recipes.errors import ConfigError
from recipes.system.terminal import protect_terminal

Task = TypeVar("Task")
Result = TypeVar("Result")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
"""Slurm's and launchers', the keyboard's, a warning before the time limit, a terminal that closes."""
TASKS_IN_FLIGHT = 4  # per process: bounds memory, hides the reader's pauses
TASKS_AHEAD = 2
"""Tasks that a process has been given and not yet answered."""
LEAVE_SECONDS = 2.0
"""How long a process may finish its task when nobody wants the result any more."""
CAUSES = {
    signal.SIGKILL: "was killed, probably for lack of memory",
    signal.SIGBUS: "was killed by SIGBUS: /dev/shm is full, or a file that it reads was cut short",
}


class WorkerLost(Exception):
    """A worker process has ended by itself. The text is how, to be read after its name."""

    def __init__(self, code: int | None) -> None:
        """`code`: its exit code, negative for a signal."""
        self.code = code
        if code is None or code >= 0:
            cause = f"ended with exit code {code}"
        else:
            cause = CAUSES.get(signal.Signals(-code), f"was killed by {signal.Signals(-code).name}, a crash in native code")
        super().__init__(cause)


class Workers(Generic[Task, Result]):
    """Processes that do `work`, with results in the order of the tasks. They end at close(), when Python ends, or when this process is
    gone, whichever comes first: within LEAVE_SECONDS, whatever they do. One thread puts and gets; any may close."""

    def __init__(
        self,
        work: Callable[[Task], Result],
        num_processes: int,
        *,
        method: Literal["spawn", "forkserver"] = "spawn",
        begin: Callable[[], object] = tuple,
    ) -> None:
        """`work`, `begin` (which each process calls first), tasks and results are pickled. Processes start as tasks come."""
        # No fork of this process, whose threads (torch, gloo) may hold locks.
        self._context: Any = multiprocessing.get_context(method)
        self._target = work, begin
        self._num_processes = num_processes
        self._processes: dict[Connection, BaseProcess] = {}
        self._working: dict[Connection, deque[int]] = {}
        self._queued: deque[tuple[int, Task]] = deque()
        self._answers: dict[int, tuple[Any, BaseException | None]] = {}
        self._num_put = self._num_taken = 0
        # When Python ends, it joins every child process for ever, but calls these first.
        self._end = util.Finalize(self, _end, (self._processes,), exitpriority=100)

    @property
    def pids(self) -> list[int | None]:
        """Of the processes that were started."""
        return [process.pid for process in self._processes.values()]

    def put(self, task: Task) -> None:
        """Hand out one more task."""
        self._queued.append((self._num_put, task))
        self._num_put += 1
        self._hand_out()

    def get(self) -> Result:
        """The result of the oldest task whose result was not taken. Raises: the error of the work; WorkerLost, also after close()."""
        while self._num_taken not in self._answers:
            for pipe in wait(list(self._working)):
                self._receive(pipe)  # type: ignore[arg-type]
            self._hand_out()
        result, error = self._answers.pop(self._num_taken)
        self._num_taken += 1
        if error is not None:
            self.close()
            raise error
        return result

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _hand_out(self) -> None:
        """Give queued tasks to the processes with the least to do, as far as they are ready for more."""
        while self._queued:
            pipe = min(self._working, key=lambda pipe: len(self._working[pipe]), default=None)
            if len(self._processes) < self._num_processes and (pipe is None or self._working[pipe]):
                pipe = self._start()
            if pipe is None or len(self._working[pipe]) >= TASKS_AHEAD:
                return
            number, task = self._queued.popleft()
            self._working[pipe].append(number)
            with suppress(ConnectionError):  # it has ended, which _receive finds
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
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            process.join(1)
            if process.exitcode is None and not isinstance(error, EOFError):
                raise  # something that this process lacks, such as descriptors
            raise WorkerLost(process.exitcode) from error
        self._answers[self._working[pipe].popleft()] = answer


def _end(processes: dict[Connection, BaseProcess]) -> None:
    for pipe in list(processes):
        with suppress(OSError):
            end = socket.socket(fileno=pipe.fileno())  # no os.dup: there may be no free descriptor
            try:
                end.shutdown(socket.SHUT_RDWR)  # unlike close(), it reaches a thread that waits for the pipe
            finally:
                end.detach()  # the descriptor stays the pipe's
    deadline = time.monotonic() + LEAVE_SECONDS
    for process in list(processes.values()):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join(1)


def _serve(work: Callable[[Any], Any], begin: Callable[[], object], pipe: Connection) -> None:
    """What a worker process runs. A stop request reaches the whole process group: the parent decides, and needs its results until then."""
    protect_terminal()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    tasks: SimpleQueue[tuple[Any] | None] = SimpleQueue()
    Thread(target=_listen, args=(pipe, tasks), daemon=True).start()
    begin()
    while (task := tasks.get()) is not None:
        try:
            answer = ForkingPickler.dumps((work(*task), None))
        except Exception as error:
            with suppress(ConnectionError):
                pipe.send((None, _portable(error)))
            while tasks.get() is not None:
                pass  # earlier results may still have to be taken, with memory that this process holds for them
            raise SystemExit(1) from error  # quietly: the parent raises it
        try:
            pipe.send_bytes(answer)
        except ConnectionError:
            return


def _listen(pipe: Connection, tasks: SimpleQueue[tuple[Any] | None]) -> None:
    """Take every task at once, so that the parent never waits; when it closes the pipe or is gone, let the process end."""
    try:
        with suppress(EOFError, OSError):
            while True:
                tasks.put((pipe.recv(),))
    finally:
        tasks.put(None)
    time.sleep(LEAVE_SECONDS)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note; another one in its place if another process could not load it."""
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
    """Each task with work(task), in order, done by that many processes (1: by this one). `doing` names them in messages.

    `work` and the tasks are pickled. Closing the generator ends the processes. Raises: ConfigError if a process is killed.
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
