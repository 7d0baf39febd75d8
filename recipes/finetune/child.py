"""Runs a command in a process of its own, one after another. Stop requests to this process are passed on to it. Torch-free."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType

from recipes.system.processes import caught_stop_signals, stop_signals_blocked

PARENT = "DATA2VEC_PARENT"
"""Environment variable with the process id of the process that has started a command here."""
PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 10.0
"""How long a command may take to exit after a second SIGINT. Then it is killed."""


class Children:
    """Runs commands, as a context manager. In the block, SIGINT, SIGTERM, SIGUSR2 and SIGHUP go to the command that runs."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Name of the first stop request that arrived, None if there was none."""
        self._child: subprocess.Popen[bytes] | None = None
        self._previous: dict[int, object] = {}
        self._interrupts = 0

    def __enter__(self) -> "Children":
        self._previous = {number: signal.signal(number, self._on_signal) for number in caught_stop_signals()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a command to its end and return its exit code, 128 + the number of the signal if one has killed it. `env`: variables to set
        beside those of this process."""
        sys.stdout.flush()
        # A session of its own: else Ctrl-C would reach the command twice, from the terminal and from here, and two mean "at once".
        # The signals stay blocked in it until the training has its handlers, so that one which comes early is not lost.
        with stop_signals_blocked():
            self._child = subprocess.Popen(command, env={**os.environ, **env, PARENT: str(os.getpid())}, start_new_session=True)
        code = self._child.wait()
        self._child = None
        return code if code >= 0 else 128 - code

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        child = self._child
        if child is None:
            return
        child.send_signal(number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts == 2:
            timer = threading.Timer(PATIENCE_SECONDS, child.kill)  # it may still be importing libraries, with its signals blocked
            timer.daemon = True
            timer.start()


def follow_parent() -> None:
    """If the class Children has started this process, ask the kernel for a SIGTERM when that process is gone. Linux only; elsewhere nothing
    is done."""
    if os.environ.get(PARENT) == str(os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
