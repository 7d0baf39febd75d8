"""The golden cases' states and configurations."""

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
    """Reads a file: (path under tests/golden, without ending) -> its tensors."""
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture
def config() -> Callable[[str], dict[str, Any]]:
    """Reads a configuration: (case) -> its settings."""

    def read(case: str) -> dict[str, Any]:
        meta = GOLDEN / case / "meta.json"
        return json.loads(meta.read_text())["config"] if meta.exists() else json.loads((GOLDEN / case / "config.json").read_text())

    return read


@pytest.fixture
def hf_names() -> Callable[[str], dict[str, str]]:
    """(modality) -> fairseq name -> Hugging Face name, as recorded with the golden vectors. A fused tensor has several names."""
    return lambda modality: json.loads((GOLDEN / "hf/names.json").read_text())[modality]
