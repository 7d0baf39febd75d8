"""A small corpus of made-up words and the folder prepared from it; loaders of numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.frontends.config import TextFrontendConfig
from recipes.config import TextDataConfig
from recipes.data.loader import UpdateLoader
from recipes.data.prepare import prepare_text
from tests.distributed import run_distributed
from tests.recipes.data.numbers_data import Numbers, open_loader

SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "su", "té")
"""The last one has three bytes and two characters, so that a count of characters differs from a count of bytes."""


def words(rng: np.random.Generator, count: int) -> str:
    """That many words of one to three syllables."""
    return " ".join("".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(count))


def write_books(folder: Path, num_books: int = 4, num_paragraphs: int = 120) -> Path:
    """Write a folder of .txt files with one paragraph per line."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for book in range(num_books):
        lines = [words(rng, int(rng.integers(1, 40))) for _ in range(num_paragraphs)]
        (folder / f"book{book}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four books."""
    return write_books(tmp_path_factory.mktemp("corpus") / "books")


@pytest.fixture(scope="session")
def frontend() -> TextFrontendConfig:
    """64 symbols."""
    return TextFrontendConfig(vocab_size=64)


@pytest.fixture(scope="session")
def data(books: Path) -> TextDataConfig:
    """Stream blocks of 32 tokens."""
    return TextDataConfig(path=str(books), tokenizer_type="unigram", sequence_length=32, break_mode="none", heldout_fraction=0.05)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, data: TextDataConfig, frontend: TextFrontendConfig) -> Path:
    """The four books, prepared."""
    return prepare_text(data, frontend, tmp_path_factory.mktemp("run") / "prepared", num_processes=1)


@pytest.fixture(scope="session")
def fork_server() -> None:
    """Start the server that worker processes are forked from, as run_distributed does. It imports torch once for all workers."""
    run_distributed(_start_only, 1)


def _start_only() -> None:
    """Do nothing: the rank is started only to start the server."""


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
