"""Existence and state of a process, as reported by the kernel."""

import os
import subprocess
from pathlib import Path

import pytest

from recipes.system.liveness import is_alive, read_stat

UNUSED_PID = 2**22 + 1
"""A pid above the largest that Linux gives to a process."""


def test_a_process_is_alive_until_it_is_waited_for_and_keeps_its_start() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        before = read_stat(child.pid)
        assert before is not None and before.state in "RSD" and int(before.start) > 0 and is_alive(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        dead = read_stat(child.pid)
        assert dead is not None and dead == ("Z", before.start) and is_alive(child.pid)
    assert read_stat(child.pid) is None and not is_alive(child.pid)


def test_an_unused_pid_and_the_pid_of_another_process() -> None:
    assert read_stat(UNUSED_PID) is None and not is_alive(UNUSED_PID)
    assert read_stat(os.getpid()) is not None and is_alive(1)


def test_a_process_that_another_user_owns_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may signal all processes, so this test imitates the error that other users get."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(os.getpid())


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    name, before = Path("/proc/self/comm"), read_stat(os.getpid())
    own = name.read_text().rstrip("\n")  # a line break in the name would make a torch trace of this process unreadable
    try:
        name.write_text("a) Z 1 2 (b")
        assert before is not None and read_stat(os.getpid()) == ("R", before.start)
    finally:
        name.write_text(own)
