"""Read-only fixtures of many tests: small made-up data sets, prepared folders, and finished runs with the tiny settings."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.data.prepare import prepare_text
from recipes.run_dir.lock import RunLock
from recipes.text import text_tiny
from tests.launching import PRETRAIN, launch, overrides, tiny_recipe
from tests.made_up import WRITE, write_book


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests except those of `-m gpu`, so that they test the CPU on every machine. Runs before a device is used."""
    if not re.search(r"(?<!not )\bgpu\b", config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu with a reason, if they are selected by name without `-m gpu`."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and `-m gpu`"))


@pytest.fixture(autouse=True)
def release_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Release the locks of run dirs that a test has left open. A held lock touches its file every five seconds, in all later tests."""
    taken, acquire = list[RunLock](), RunLock.acquire
    monkeypatch.setattr(RunLock, "acquire", lambda self: taken.append(self) or acquire(self))
    yield
    for lock in taken:
        lock.release()


@pytest.fixture(scope="session", params=PRETRAIN)
def modality(request: pytest.FixtureRequest) -> str:
    """Every modality in turn."""
    return request.param


@pytest.fixture(scope="session")
def tiny_data(modality: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modality's made-up raw data set."""
    return WRITE[modality](tmp_path_factory.mktemp(modality))


@pytest.fixture(scope="session")
def tiny_done(modality: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir of the modality after two steps, with data prepared by the run itself. Copy it before a change."""
    return _train(modality, tiny_data, tmp_path_factory.mktemp(modality) / "run")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 9,000 words of one to three syllables."""
    return write_book(tmp_path_factory.mktemp("tiny") / "book.txt")


@pytest.fixture(scope="session")
def tiny_prepared(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, prepared for the tiny settings."""
    recipe = tiny_recipe(data__path=tiny_text)
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("tiny") / "prepared", num_processes=1)


@pytest.fixture(scope="session")
def tiny_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir after two steps, with data prepared by the run itself. Copy it before a change."""
    return _train("text", tiny_text, tmp_path_factory.mktemp("tiny") / "run")


def _train(modality: str, data: Path, run_dir: Path) -> Path:
    done = launch(PRETRAIN[modality], ["--data", data, "--run-dir", run_dir, *overrides(modality)], run_dir.parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return run_dir


@pytest.fixture(scope="session")
def sample_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample, prepared for text_tiny."""
    recipe = text_tiny()
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("sample") / "prepared")
