"""Commands in processes of their own: exit codes, stop requests that are passed on, and no process that outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.finetune import child
from recipes.finetune.child import PARENT, Children
from tests.launching import ROOT

WAITS = """
import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, lambda number, frame: got.append(number))
signal.pthread_sigmask(signal.SIG_SETMASK, ())
open(sys.argv[1], "w").close()
while not got:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(len(got) * 100 + int(got[0]))
"""


def soon(happens: Callable[[], bool], then: Callable[[], object]) -> None:
    """Call `then` in another thread when `happens` is True."""

    def wait() -> None:
        while not happens():
            time.sleep(0.01)
        then()

    threading.Thread(target=wait, daemon=True).start()


def python(code: str, *args: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, args)]


@pytest.mark.parametrize(("code", "expected"), [("pass", 0), ("raise SystemExit(75)", 75), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_code_is_that_of_the_command(code: str, expected: int) -> None:
    with Children() as children:
        assert children.run(python(code), {}) == expected
    assert children.reason is None


def test_the_command_gets_the_variables_and_the_id_of_its_parent(tmp_path: Path) -> None:
    code = f"import os; raise SystemExit(os.environ['A'] != 'b' or os.environ['{PARENT}'] != str(os.getppid()))"
    with Children() as children:
        assert children.run(python(code), {"A": "b"}) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2", "SIGHUP"])
def test_a_stop_request_reaches_the_command_once(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    soon((tmp_path / "up").exists, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with Children() as children:
        assert children.run(python(WAITS, tmp_path / "up"), {}) == 100 + number
        assert children.reason == name
    assert signal.getsignal(number) == before


def test_a_command_that_ignores_two_interrupts_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "PATIENCE_SECONDS", 0.1)
    code = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(60)"  # with its signals blocked, as while it imports

    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    soon((tmp_path / "up").exists, twice)
    with Children() as children:
        assert children.run(python(code, tmp_path / "up"), {}) == 137


def test_a_command_whose_parent_is_killed_gets_sigterm(tmp_path: Path) -> None:
    inner = (
        "import pathlib, signal, sys, time; from recipes.finetune.child import follow_parent; follow_parent()\n"
        "signal.signal(15, lambda *_: (pathlib.Path(sys.argv[1], 'stopped').touch(), sys.exit()))\n"
        "signal.pthread_sigmask(signal.SIG_SETMASK, ()); pathlib.Path(sys.argv[1], 'up').touch(); time.sleep(60)"
    )
    outer = f"from recipes.finetune.child import Children\nwith Children() as c: c.run({python(inner, tmp_path)!r}, {{}})"
    parent = subprocess.Popen(python(outer), env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while not (tmp_path / "stopped").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "stopped").exists()


def test_a_process_without_such_a_parent_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT, "1")
    monkeypatch.setattr(child.ctypes, "CDLL", lambda name: pytest.fail("asked the kernel"))
    child.follow_parent()
