"""Sends a signal to one thread of another process. Standard library only."""

import ctypes
import os
import platform
from signal import Signals

TGKILL = {"x86_64": 234, "aarch64": 131}
"""The number of the system call tgkill on each machine. glibc has a function for it only since 2.30."""


def signal_main_thread(pid: int, number: Signals | int) -> None:
    """Send a signal to the main thread of the process `pid`.

    The kernel gives a signal for a whole process to any thread if the process is stopped. faulthandler in another thread then reads the
    frames of the main thread while that runs, and crashes. On a machine that is not in TGKILL the kernel still chooses the thread.

    Raises: ProcessLookupError if there is no such process.
    """
    if platform.machine() not in TGKILL:
        os.kill(pid, number)
    elif ctypes.CDLL(None, use_errno=True).syscall(TGKILL[platform.machine()], pid, pid, int(number)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
