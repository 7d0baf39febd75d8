"""Fixtures that read the stored tensors and configurations of the golden cases (reference results of published models)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

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
