"""Ranks from the launcher's variables, and the libraries' chatter kept off the terminal."""

import logging
import os
import sys
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.train.environment import is_first_rank, world_from_environment
from tests.distributed import run_command

NAMES = ("RANK", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("env", "world"), [({}, (0, 1)), ({"WORLD_SIZE": "64"}, (0, 64)), ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4))])
def test_the_world_is_what_the_launcher_said(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], world: tuple[int, int]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert world_from_environment() == world
    assert is_first_rank() == (world[0] == 0)


@pytest.mark.parametrize("values", [("0", "many"), ("x", "2"), ("0", "0"), ("0", "-1"), ("4", "4"), ("-1", "2")])
def test_nonsense_is_refused_and_said_aloud(monkeypatch: pytest.MonkeyPatch, values: tuple[str, str]) -> None:
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"RANK='{values[0]}' WORLD_SIZE='{values[1]}': must be integers.*unset them"):
        world_from_environment()
    assert is_first_rank(), "else nobody prints the error"


def imported_with(verbose: str, tmp_path: Path) -> str:
    """What importing DeepSpeed prints after quiet_libraries, and then a warning and an error of its logger."""
    lines = [
        "from recipes.train.environment import quiet_libraries; quiet_libraries()",
        "import logging, warnings, deepspeed",
        "warnings.warn('a warning of a library')",
        "[getattr(logging.getLogger('DeepSpeed'), level)(f'{level} speaks') for level in ('warning', 'error')]",
    ]
    env = {"DATA2VEC_VERBOSE": verbose, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = run_command([sys.executable, "-c", "\n".join(lines)], tmp_path, 60, env)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_libraries_are_quiet_unless_they_have_an_error_or_are_asked_to_speak(tmp_path: Path) -> None:
    quiet = imported_with("", tmp_path)
    assert len(quiet.splitlines()) == 1 and "error speaks" in quiet, quiet
    loud = imported_with("1", tmp_path)
    assert "warning speaks" in loud and "a warning of a library" in loud, loud


def test_nothing_is_touched_when_asked_to_be_verbose(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.train.environment import quiet_libraries

    monkeypatch.setenv("DATA2VEC_VERBOSE", "1")
    before = dict(os.environ), logging.getLogger("megatron").level, list(logging.getLogger("DeepSpeed").filters)
    quiet_libraries()
    assert before == (dict(os.environ), logging.getLogger("megatron").level, logging.getLogger("DeepSpeed").filters)
