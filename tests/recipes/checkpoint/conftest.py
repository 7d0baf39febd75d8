"""Fixture with the training data of the checkpoint tests."""

from pathlib import Path

import pytest

from tests.recipes.checkpoint.topology import prepare_small


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made-up text, prepared for small_recipe("text")."""
    return prepare_small("text", tmp_path_factory.mktemp("small"))
