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


@pytest.fixture(scope="session", autouse=True)
def environment_of_session() -> dict[str, str]:
    """The environment variables with which the tests of this process begin."""
    return dict(os.environ)


@pytest.fixture(autouse=True)
def restore_environment(environment_of_session: dict[str, str]) -> Iterator[None]:
    """Undo the changes of environment variables by the commands that a test, or a fixture of its module, calls in this process. They set
    those that quiet libraries, and all processes of later tests would get them."""
    yield
    os.environ.update(environment_of_session)
    for name in os.environ.keys() - environment_of_session:
        del os.environ[name]


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
    """The name of a modality. A test that uses this fixture runs once for each modality."""
    return request.param


@pytest.fixture(scope="session")
def tiny_data(modality: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a small made-up data set of the modality, not prepared."""
    return WRITE[modality](tmp_path_factory.mktemp(modality))


@pytest.fixture(scope="session")
def tiny_done(modality: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir in which two updates of the modality's tiny run were done, with data prepared by the run itself. Copy it before a
    change."""
    return _train(modality, tiny_data, tmp_path_factory.mktemp(modality) / "run")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file with about 9,000 words of one to three syllables."""
    return write_book(tmp_path_factory.mktemp("tiny") / "book.txt")


@pytest.fixture(scope="session")
def tiny_prepared(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the text of `tiny_text`, prepared for the tiny settings."""
    recipe = tiny_recipe(data__path=tiny_text)
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("tiny") / "prepared", num_processes=1)


@pytest.fixture(scope="session")
def tiny_run(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir in which two updates of a tiny text run were done, with data prepared by the run itself. Copy it before a change."""
    return _train("text", tiny_text, tmp_path_factory.mktemp("tiny") / "run")


def _train(modality: str, data: Path, run_dir: Path) -> Path:
    done = launch(PRETRAIN[modality], ["--data", data, "--run-dir", run_dir, *overrides(modality)], run_dir.parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return run_dir


@pytest.fixture(scope="session")
def sample_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the text sample that is shipped with the repository, prepared for text_tiny."""
    recipe = text_tiny()
    return prepare_text(recipe.data, recipe.frontend, tmp_path_factory.mktemp("sample") / "prepared")
