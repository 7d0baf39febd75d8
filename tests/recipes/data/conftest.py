"""Fixtures: a small corpus of made-up words, the folder prepared from it, and loaders of numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.frontends.config import TextFrontendConfig
from recipes.data.loader import UpdateLoader
from recipes.data.prepare import prepare_text
from recipes.data_config import TextDataConfig
from tests.distributed import run_distributed
from tests.recipes.data.numbers_data import Numbers, open_loader

SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "su", "té")
"""Syllables of the made-up words. The last one has three bytes and two characters, so that counts of characters and of bytes differ."""


def words(rng: np.random.Generator, count: int) -> str:
    """Return `count` random words of one to three syllables, separated by blanks."""
    return " ".join("".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(count))


def write_books(folder: Path, num_books: int = 4, num_paragraphs: int = 120) -> Path:
    """Write .txt files with one paragraph per line into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for book in range(num_books):
        lines = [words(rng, int(rng.integers(1, 40))) for _ in range(num_paragraphs)]
        (folder / f"book{book}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four books of made-up words."""
    return write_books(tmp_path_factory.mktemp("corpus") / "books")


@pytest.fixture(scope="session")
def frontend() -> TextFrontendConfig:
    """Settings of a text frontend with a vocabulary of 64 symbols."""
    return TextFrontendConfig(vocab_size=64)


@pytest.fixture(scope="session")
def data(books: Path) -> TextDataConfig:
    """Data settings of a text cut into blocks of 32 tokens."""
    return TextDataConfig(path=str(books), tokenizer_type="unigram", sequence_length=32, break_mode="none", heldout_fraction=0.05)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, data: TextDataConfig, frontend: TextFrontendConfig) -> Path:
    """The folder of the four made-up books, prepared for training."""
    return prepare_text(data, frontend, tmp_path_factory.mktemp("run") / "prepared", num_processes=1)


@pytest.fixture(scope="session")
def fork_server() -> None:
    """Start the server that worker processes are forked from, as run_distributed does. It imports torch once for all workers."""
    run_distributed(_start_only, 1)


def _start_only() -> None:
    """Do nothing. A rank that runs this only starts the server from which others are forked."""


@pytest.fixture
def build(fork_server: None) -> Iterator[Callable[..., UpdateLoader]]:
    """Return a function that opens a loader of a numbers_data.Numbers, given or created with a size. All loaders are closed at the end."""
    loaders: list[UpdateLoader] = []

    def build_one(dataset: Numbers | int = 50, **options: Any) -> UpdateLoader:
        loaders.append(open_loader(Numbers(dataset) if isinstance(dataset, int) else dataset, **options))
        return loaders[-1]

    yield build_one
    for loader in loaders:
        loader.close()
