"""Fixtures that read the stored tensors and configurations of the golden cases (reference results of published models)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.distributed import run_distributed
from tests.recipes.interop.stored_models import small_recipes, write_imported_run, write_random_run

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def state() -> Callable[[str], dict[str, Tensor]]:
    """A function that reads a file of tensors: (path under tests/golden, without ending) -> name -> tensor."""
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture
def config() -> Callable[[str], dict[str, Any]]:
    """A function that reads the configuration of a golden case: (case) -> its settings."""

    def read(case: str) -> dict[str, Any]:
        meta = GOLDEN / case / "meta.json"
        return json.loads(meta.read_text())["config"] if meta.exists() else json.loads((GOLDEN / case / "config.json").read_text())

    return read


@pytest.fixture
def hf_names() -> Callable[[str], dict[str, str]]:
    """A function: (modality) -> {fairseq's name of a parameter: Hugging Face's name}, as recorded with the golden cases. A fused tensor
    has several names."""
    return lambda modality: json.loads((GOLDEN / "hf/names.json").read_text())[modality]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run dir for each modality, and the text run as 2 x 2 ranks wrote it."""
    folder = tmp_path_factory.mktemp("runs")
    run_distributed(write_runs, 1, folder)
    return folder


def write_runs(folder: Path) -> None:
    for modality, recipe in small_recipes().items():
        write_random_run(folder / modality, recipe)
        write_random_run(folder / f"{modality}-2x2", recipe, topology=(2, 2))
    for case in ("hf/text", "hf/audio", "hf/vision_shared"):
        write_imported_run(folder / case.replace("/", "-"), case)
