"""Data that every rank of these tests trains on."""

from pathlib import Path

import pytest

from tests.recipes.checkpoint.topology import prepare_small


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text as small_recipe wants it."""
    return prepare_small("text", tmp_path_factory.mktemp("small"))
