"""The errors carry the product's exit codes, and neither catches the other's."""

import pytest

from recipes.errors import ConfigError, Stopped, TrainingBroken


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (TrainingBroken, 3), (Stopped, 75)])
def test_an_error_has_its_exit_code_and_says_what_it_was_given(kind: type[BaseException], code: int) -> None:
    error = kind("fact; remedy")
    assert (error.exit_code, str(error)) == (code, "fact; remedy")  # type: ignore[attr-defined]


def test_the_two_kinds_are_told_apart() -> None:
    assert not issubclass(ConfigError, TrainingBroken) and not issubclass(TrainingBroken, ConfigError)
    assert not issubclass(ConfigError, ValueError | OSError), "a handler for library errors would swallow it"


def test_no_library_swallows_a_stop() -> None:
    assert not issubclass(Stopped, Exception)
