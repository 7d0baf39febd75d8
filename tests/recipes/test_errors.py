"""The errors have the exit codes of product.md, and a handler of one does not catch the other."""

import signal

import pytest

from recipes.errors import EXIT_INTERRUPTED, ConfigError, DamagedCheckpoint, LocalError, MissingSplit, Stopped, TrainingBroken


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (TrainingBroken, 3), (Stopped, 75)])
def test_an_error_has_its_exit_code_and_its_message(kind: type[BaseException], code: int) -> None:
    error = kind("fact; remedy")
    assert (error.exit_code, str(error)) == (code, "fact; remedy")  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [LocalError, MissingSplit, DamagedCheckpoint])
def test_special_config_errors_have_exit_code_2_too(kind: type[ConfigError]) -> None:
    assert issubclass(kind, ConfigError) and kind.exit_code == ConfigError.exit_code


def test_the_exit_code_of_ctrl_c_is_that_of_a_shell() -> None:
    assert EXIT_INTERRUPTED == 128 + signal.SIGINT


def test_config_errors_and_broken_training_are_unrelated_classes() -> None:
    assert not issubclass(ConfigError, TrainingBroken) and not issubclass(TrainingBroken, ConfigError)
    assert not issubclass(ConfigError, ValueError | OSError), "a handler for library errors would swallow it"


def test_no_library_swallows_a_stop() -> None:
    assert not issubclass(Stopped, Exception)


@pytest.mark.parametrize(("message", "fact"), [("fact; remedy", "fact"), ("fact; number; remedy", "fact; number"), ("fact", "fact")])
def test_a_message_without_its_remedy_keeps_the_fact(message: str, fact: str) -> None:
    assert ConfigError(message).without_remedy == MissingSplit(message).without_remedy == fact
