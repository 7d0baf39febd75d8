"""One process at a time: a second one is refused, and the next one is not."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.system.exclusive import exclusively


def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    for _ in range(2):
        with exclusively(lock, "taken"), pytest.raises(ConfigError, match=r"^taken$"), exclusively(lock, "taken"):
            pass


def test_an_error_of_the_block_is_not_taken_for_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), exclusively(tmp_path / ".lock", "taken"):
        raise BlockingIOError
