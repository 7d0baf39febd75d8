"""Training data of these tests."""

from pathlib import Path

import pytest

from tests.recipes.checkpoint.topology import prepare_small


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared text for small_recipe."""
    return prepare_small("text", tmp_path_factory.mktemp("small"))
