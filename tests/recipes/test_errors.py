"""The errors carry the product's exit codes, and neither catches the other's."""

import signal

import pytest

from recipes.errors import EXIT_INTERRUPTED, ConfigError, DamagedCheckpoint, LocalError, MissingSplit, Stopped, TrainingBroken


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (TrainingBroken, 3), (Stopped, 75)])
def test_an_error_has_its_exit_code_and_says_what_it_was_given(kind: type[BaseException], code: int) -> None:
    error = kind("fact; remedy")
    assert (error.exit_code, str(error)) == (code, "fact; remedy")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [LocalError, MissingSplit, DamagedCheckpoint])
def test_what_some_command_tells_apart_is_one_line_of_exit_code_2_to_the_others(kind: type[ConfigError]) -> None:
    assert issubclass(kind, ConfigError) and kind.exit_code == ConfigError.exit_code


def test_what_ctrl_c_ends_has_the_code_that_a_shell_gives_it() -> None:
    assert EXIT_INTERRUPTED == 128 + signal.SIGINT


def test_the_two_kinds_are_told_apart() -> None:
    assert not issubclass(ConfigError, TrainingBroken) and not issubclass(TrainingBroken, ConfigError)
    assert not issubclass(ConfigError, ValueError | OSError), "a handler for library errors would swallow it"


def test_no_library_swallows_a_stop() -> None:
    assert not issubclass(Stopped, Exception)
