"""What many tests start from and none changes: a small made-up book, its prepared folder, and a finished run of the tiny settings."""

import random
from pathlib import Path

import pytest

from recipes.data.prepare import prepare_text
from recipes.text import text_tiny
from tests.launching import PRETRAIN_TEXT, launch, overrides, tiny_recipe

SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "su", "te")


def write_book(path: Path, num_lines: int = 400) -> Path:
    """A .txt file, one paragraph a line, the same one every time."""
    rng = random.Random(0)
    lines = [" ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(5, 40))) for _ in range(num_lines)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 9,000 words of one to three syllables."""
    return write_book(tmp_path_factory.mktemp("tiny") / "book.txt")


@pytest.fixture(scope="session")
def tiny_prepared(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as the tiny settings want it."""
    recipe = tiny_recipe(data__path=tiny_text)
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("tiny") / "prepared", num_processes=1)


@pytest.fixture(scope="session")
def tiny_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir after two steps, data prepared by the launcher itself. Copy it before changing anything."""
    run_dir = tmp_path_factory.mktemp("tiny") / "run"
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", run_dir, *overrides()], run_dir.parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return run_dir


@pytest.fixture(scope="session")
def sample_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample as text_tiny wants it."""
    recipe = text_tiny()
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("sample") / "prepared")
