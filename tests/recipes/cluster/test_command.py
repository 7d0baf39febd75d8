"""How commands end: one line, exit codes, and which rank speaks."""

import os
import sys

import pytest

from recipes.cluster.command import exit_code_of
from recipes.errors import ConfigError, Stopped, TrainingBroken
from tests.distributed import run_command
from tests.launching import ROOT


@pytest.mark.parametrize(("error", "code"), [(ConfigError("fact; remedy"), 2), (TrainingBroken("step 7"), 3)])
def test_a_users_error_is_one_line_and_its_code(capsys: pytest.CaptureFixture, error: Exception, code: int) -> None:
    def command() -> int:
        raise error

    assert exit_code_of(command) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> int:
        raise ConfigError("once")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert exit_code_of(command) == 2
    assert capsys.readouterr().err == ""


def test_the_commands_own_code_passes_and_a_defect_keeps_its_traceback() -> None:
    assert exit_code_of(lambda: 75) == 75
    with pytest.raises(ZeroDivisionError):
        exit_code_of(lambda: 1 // 0)


INTERRUPTED = """
import sys, threading, time
from recipes.cluster.command import exit_code_of

def command():
    threading.Thread(target=time.sleep, args=(60,)).start()  # a checkpoint on a slow disk
    print("so far", end="")
    raise KeyboardInterrupt

sys.exit(exit_code_of(command))
"""


def test_an_interrupt_is_one_line_and_waits_for_no_thread() -> None:
    done = run_command([sys.executable, "-c", INTERRUPTED], ROOT, 20)
    assert (done.returncode, done.stdout) == (130, "so far")
    assert done.stderr == "interrupted; what was saved stays valid and the same command continues\n"


@pytest.mark.parametrize(("utf8", "code"), [("0", 2), ("1", 0)])
def test_a_python_that_reads_ascii_alone_is_told_the_variable_that_helps(utf8: str, code: int) -> None:
    """In such a locale torch cannot read its own files."""
    program = "import sys; from recipes.cluster.command import exit_code_of; sys.exit(exit_code_of(lambda: 0))"
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8, "PYTHONPATH": str(ROOT)}
    done = run_command([sys.executable, "-c", program], ROOT, 20, env)
    assert done.returncode == code and ("set PYTHONUTF8=1" in done.stderr) == (code == 2)


def test_a_name_that_is_too_long_is_one_line_wherever_it_is_used(capsys: pytest.CaptureFixture) -> None:
    assert exit_code_of(lambda: len(os.listdir("x" * 300))) == 2
    assert capsys.readouterr().err == f"error: {'x' * 60}...: File name too long; choose a shorter one\n"
    with pytest.raises(FileNotFoundError):
        exit_code_of(lambda: len(os.listdir("nowhere")))


def test_a_stop_before_anything_was_saved_is_one_line_and_its_code(capsys: pytest.CaptureFixture) -> None:
    def command() -> int:
        raise Stopped("stopped by SIGTERM during preparation; the same command continues")

    assert exit_code_of(command) == 75
    assert capsys.readouterr() == ("stopped by SIGTERM during preparation; the same command continues\n", "")
