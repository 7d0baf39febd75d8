"""The Hugging Face formats of data2vec: for each modality the functions that convert configurations and parameter names. No files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import hf_speech, hf_text, hf_vision
from recipes.interop.expressible import ELSE, Expressible
from recipes.interop.names import NameTable
from recipes.interop.shapes import Shapes
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
    config_of: Callable[[Recipe], dict[str, Any]]
    """Recipe -> fields of config.json that it decides: the inverse of recipe_of. Raises: ConfigError for a setting that transformers
    cannot express."""
    expressible: Expressible
    """Which settings of the model config_of stores, drops or refuses."""
    own_config: dict[str, Any]
    """Fields of config.json that no recipe decides, for a model that was not imported."""
    shapes: Callable[[dict[str, Any]], Shapes]
    """config.json -> name and shape of all tensors that transformers' class has."""
    untrained: Callable[[str, tuple[int, ...]], Tensor] | None = None
    """(name, shape) -> values of a tensor of transformers' class that is not part of data2vec. None: there are no such tensors."""


FORMATS: dict[str, HfFormat] = {
    "data2vec-text": HfFormat(
        modality="text",
        template=text_base,
        recipe_of=hf_text.text_recipe,
        names=hf_text.text_names,
        prefix=hf_text.PREFIX,
        config_of=hf_text.text_config,
        expressible=hf_text.EXPRESSIBLE,
        own_config=hf_text.OWN_CONFIG,
        shapes=hf_text.text_shapes,
        untrained=hf_text.text_untrained,
    ),
    "data2vec-audio": HfFormat(
        modality="speech",
        template=speech_base,
        recipe_of=hf_speech.speech_recipe,
        names=hf_speech.speech_names,
        prefix=hf_speech.PREFIX,
        config_of=hf_speech.speech_config,
        expressible=hf_speech.EXPRESSIBLE,
        own_config=hf_speech.OWN_CONFIG,
        shapes=hf_speech.speech_shapes,
    ),
    "data2vec-vision": HfFormat(
        modality="vision",
        template=vision_base,
        recipe_of=hf_vision.vision_recipe,
        names=hf_vision.vision_names,
        prefix=hf_vision.PREFIX,
        config_of=hf_vision.vision_config,
        expressible=hf_vision.EXPRESSIBLE,
        own_config=hf_vision.OWN_CONFIG,
        shapes=hf_vision.vision_shapes,
    ),
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
    raise ConfigError(f"modality {modality}: transformers has no data2vec class for it, only for {there}; {ELSE}")
