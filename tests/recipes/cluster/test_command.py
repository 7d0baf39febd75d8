"""How commands end: one line, the exit code, and which rank prints it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipes.cluster.command import exit_code_of
from recipes.errors import ConfigError, LocalError, OutOfMemory, Stopped, TrainingBroken
from tests.distributed import run_command
from tests.launching import ROOT


@pytest.mark.parametrize(("error", "code"), [(ConfigError("fact; remedy"), 2), (TrainingBroken("step 7"), 3)])
def test_a_users_error_is_printed_as_one_line_with_its_exit_code(capsys: pytest.CaptureFixture, error: Exception, code: int) -> None:
    def command() -> int:
        raise error

    assert exit_code_of(command) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_only_rank_0_prints_an_error(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> int:
        raise ConfigError("once")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert exit_code_of(command) == 2
    assert capsys.readouterr().err == ""


def test_the_commands_exit_code_is_returned_and_a_defect_keeps_its_traceback() -> None:
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


def test_an_interrupt_prints_one_line_and_does_not_wait_for_threads() -> None:
    done = run_command([sys.executable, "-c", INTERRUPTED], ROOT, 20)
    assert (done.returncode, done.stdout) == (130, "so far")
    assert done.stderr == "interrupted; what was saved stays valid and the same command continues\n"


LINGERING = """
import sys, threading, time
from recipes.cluster import command

command.LEAVE_SECONDS = 0.2

def work():
    threading.Thread(target=time.sleep, args=(60,)).start()  # Python would join it
    print("so far", end="")
    {}

sys.exit(command.exit_code_of(work))
"""


@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("return 75", 75, ""),
        ("raise command.ConfigError('fact')", 2, "error: fact\n"),
    ],
)
def test_the_process_exits_within_seconds_however_the_command_ends(how: str, code: int, stderr: str) -> None:
    done = run_command([sys.executable, "-c", LINGERING.format(how)], ROOT, 20)
    assert (done.returncode, done.stdout) == (code, "so far") and done.stderr.endswith(stderr)


@pytest.mark.parametrize(("utf8", "code"), [("0", 2), ("1", 0)])
def test_the_error_of_an_ascii_only_python_names_the_variable_that_fixes_it(utf8: str, code: int) -> None:
    """In such a locale torch cannot read its own files."""
    program = "import sys; from recipes.cluster.command import exit_code_of; sys.exit(exit_code_of(lambda: 0))"
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8, "PYTHONPATH": str(ROOT)}
    done = run_command([sys.executable, "-c", program], ROOT, 20, env)
    assert done.returncode == code and ("set PYTHONUTF8=1" in done.stderr) == (code == 2)


def test_the_error_of_a_file_name_that_is_too_long_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert exit_code_of(lambda: len(os.listdir("x" * 300))) == 2
    assert capsys.readouterr().err == f"error: {'x' * 60}...: File name too long; choose a shorter one\n"
    with pytest.raises(FileNotFoundError):
        exit_code_of(lambda: len(os.listdir("nowhere")))


def test_a_stop_is_printed_as_one_line_with_its_exit_code(capsys: pytest.CaptureFixture) -> None:
    def command() -> int:
        raise Stopped("stopped by SIGTERM during preparation; the same command continues")

    assert exit_code_of(command) == 75
    assert capsys.readouterr() == ("stopped by SIGTERM during preparation; the same command continues\n", "")


def raising(error: BaseException) -> Callable[[], Any]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("a fact; a remedy"), "error: a fact; a remedy"),
        (TrainingBroken("step 7"), "error: step 7"),
        (Stopped("stopped by SIGTERM"), "stopped by SIGTERM"),
        (75, "stopped on request, everything is saved, no failure (exit code 75): the same command continues"),
        (ZeroDivisionError("a defect"), "ZeroDivisionError: a defect"),
        (0, None),
    ],
    ids=lambda value: value.__class__.__name__,
)
def test_torchruns_error_file_contains_how_the_rank_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | int, line: str | None
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    try:
        exit_code_of(raising(error) if isinstance(error, BaseException) else lambda: error)
    except ZeroDivisionError:
        assert error.__class__ is ZeroDivisionError
    assert (tmp_path / "error.json").exists() == (line is not None)
    if line is not None:
        found: Any = ProcessFailure(0, 7, 2, str(tmp_path / "error.json")).message
        assert found["extraInfo"]["py_callstack"].splitlines()[-1] == line == json.loads(json.dumps(found["message"])).splitlines()[-1]


def test_a_missing_folder_of_torchruns_error_file_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/nowhere/error.json")
    assert exit_code_of(raising(ConfigError("x"))) == 2


@pytest.mark.parametrize(("local_rank", "local"), [(1, ""), (0, "error: local\n")])
def test_out_of_memory_is_printed_by_the_rank_that_has_it_and_a_nodes_error_by_local_rank_0(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, local_rank: int, local: str
) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": str(local_rank)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("recipes.cluster.command.EXIT_DELAY_SECONDS", 0.0)
    assert exit_code_of(raising(OutOfMemory("memory"))) == exit_code_of(raising(MemoryError())) == 2
    assert capsys.readouterr().err.startswith("error: memory\nerror: out of memory (")
    assert exit_code_of(raising(LocalError("local"))) == 2 and capsys.readouterr().err == local


def test_the_cause_of_an_error_is_printed_if_verbose(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA2VEC_VERBOSE", "1")
    assert exit_code_of(raising(MemoryError("std::bad_alloc"))) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.splitlines()[-1].startswith("error: out of memory (std::bad_alloc); ")
