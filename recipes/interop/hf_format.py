"""The Hugging Face formats of data2vec: for each modality the functions that convert configurations and parameter names. No files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import hf_speech, hf_text, hf_vision
from recipes.interop.names import NameTable
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base


@dataclass(frozen=True)
class HfFormat:
    """How a data2vec model of one modality is stored in a Hugging Face directory."""

    modality: str
    template: Callable[[], Recipe]
    """The recipe whose settings an imported run has for all that the directory does not say: data, optimizer, schedule."""
    recipe_of: Callable[[Recipe, dict[str, Any]], Recipe]
    """(template, config.json) -> recipe with the front-end and encoder of that configuration. Raises: ConfigError."""
    names: Callable[[Recipe], NameTable]
    """The table that converts the tensors' names, for a recipe that recipe_of() returned."""
    prefix: str
    """Prefix of data2vec's parameters in a model with a task's head."""


FORMATS: dict[str, HfFormat] = {
    "data2vec-text": HfFormat("text", text_base, hf_text.text_recipe, hf_text.text_names, hf_text.PREFIX),
    "data2vec-audio": HfFormat("speech", speech_base, hf_speech.speech_recipe, hf_speech.speech_names, hf_speech.PREFIX),
    "data2vec-vision": HfFormat("vision", vision_base, hf_vision.vision_recipe, hf_vision.vision_names, hf_vision.PREFIX),
}
"""By config.json's `model_type`."""


def format_of_config(config: dict[str, Any], source: str) -> HfFormat:
    """Return the format of a directory with this config.json. Raises: ConfigError, beginning with `source`, for another architecture."""
    model_type = config.get("model_type")
    if model_type not in FORMATS:
        raise ConfigError(f"{source}: its config.json has model_type {model_type!r}; name a directory of {', '.join(FORMATS)}")
    return FORMATS[model_type]


def format_of_modality(modality: str) -> tuple[str, HfFormat]:
    """Return (model_type, format) of a modality. Raises: ConfigError if transformers has no data2vec class for it."""
    for model_type, one in FORMATS.items():
        if one.modality == modality:
            return model_type, one
    there = ", ".join(one.modality for one in FORMATS.values())
    raise ConfigError(
        f"modality {modality}: transformers has no data2vec class for it, only for {there}; use launch/convert.py consolidate"
    )
