"""Names of the files of a Hugging Face directory of a model. Torch-free."""

import json
from typing import Any

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


def as_json(content: dict[str, Any]) -> bytes:
    """Return the content of a .json file of the directory."""
    return (json.dumps(content, indent=2) + "\n").encode()
