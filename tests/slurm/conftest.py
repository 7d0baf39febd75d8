"""Fixtures: one Slurm cluster of two nodes for all tests of this folder, and small data on the file system that its nodes share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching import tiny_recipe
from tests.made_up import WRITE
from tests.slurm.cluster import Cluster, cluster, missing
from tests.slurm.runs import Undisturbed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder with `slurm`: make test leaves them out, make test-slurm runs them. A dead node is noticed after half
    a minute, and a requeued job waits for Slurm's scheduler, so a test takes a minute, or more on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm_", ignore_cleanup_errors=True) as folder, cluster(Path(folder, "cluster")) as up:
        yield up


@pytest.fixture
def slurm(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, without any job. What a test leaves in it is removed afterwards. pytest shows what the test's jobs have printed if the
    test fails."""
    earlier = set(whole_cluster.outputs())
    yield whole_cluster
    for path in whole_cluster.outputs():
        if path not in earlier:
            print(f"{path.name}:\n{path.read_text(errors='replace')}")
    whole_cluster.clear()


@pytest.fixture(scope="session")
def prepared(whole_cluster: Cluster) -> dict[str, Path]:
    """Modality -> folder of made-up data, prepared for the tiny settings."""
    from recipes.modalities.registry import MODALITIES  # takes seconds; not imported if the folder is skipped

    folders = {}
    for modality, write in WRITE.items():
        raw = whole_cluster.folder / f"raw_{modality}"
        raw.mkdir()
        recipe = tiny_recipe(modality, data__path=write(raw))
        folders[modality] = MODALITIES[modality].prepare(recipe, whole_cluster.folder / f"data_{modality}", num_processes=1)
    return folders


@pytest.fixture(scope="session")
def undisturbed(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The result of the text run of tests/slurm/runs.py on two ranks of one machine, without any fault."""
    return Undisturbed.of(prepared["text"], tmp_path_factory.mktemp("undisturbed"), 2)
