"""The Hugging Face formats of data2vec: for each modality the functions that convert configurations, parameter names and the
files beside the weights. Reads and writes no files itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import hf_speech, hf_text, hf_vision
from recipes.interop.expressible import ELSE, Expressible
from recipes.interop.hf_head import HfHead
from recipes.interop.hf_heads import SPEECH_HEADS, TEXT_HEADS, VISION_HEADS
from recipes.interop.imported_tokenizer import ImportedTokenizer, no_tokenizer, text_tokenizer
from recipes.interop.names import NameTable
from recipes.interop.processors import (
    Processor,
    speech_preprocessor,
    speech_processor,
    text_processor,
    vision_preprocessor,
    vision_processor,
)
from recipes.interop.shapes import Shapes
from recipes.supervised_config import SupervisedConfig


@dataclass(frozen=True)
class HfFormat:
    """How a data2vec model of one modality is stored in a Hugging Face directory."""

    modality: str
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
    processor: Callable[[Recipe, Path], Processor]
    """(recipe, run dir) -> what an export has from which transformers prepares inputs. Raises: ConfigError."""
    preprocessor: Callable[[Recipe], dict[str, Any]] | None = None
    """Recipe -> preprocessor_config.json if samples are prepared in this project's way. None: the modality has no such file."""
    tokenizer: Callable[[Path | None, Recipe, Path | None], ImportedTokenizer] = no_tokenizer
    """(directory, recipe, --tokenizer) -> the tokenizer that an imported run keeps. Raises: ConfigError."""
    fit: Callable[[Any, Any], Recipe] | None = None
    """(recipe, template) -> recipe with data and masks that fit its front-end. None: those of any template fit."""
    may_lack: Callable[[dict[str, Any]], tuple[str, ...]] = lambda config: ()
    """config.json -> beginnings of names that its directory may lack, besides those that any directory may lack."""
    untrained: Callable[[str, tuple[int, ...]], Tensor] | None = None
    """(name, shape) -> values of a tensor of transformers' class that is not part of data2vec. None: there are no such tensors."""
    heads: Mapping[str, HfHead] = field(default_factory=dict)
    """Kind of a supervised objective -> the class of transformers that has its head."""


FORMATS: dict[str, HfFormat] = {
    "data2vec-text": HfFormat(
        modality="text",
        recipe_of=hf_text.text_recipe,
        names=hf_text.text_names,
        prefix=hf_text.PREFIX,
        config_of=hf_text.text_config,
        expressible=hf_text.EXPRESSIBLE,
        own_config=hf_text.OWN_CONFIG,
        shapes=hf_text.text_shapes,
        processor=text_processor,
        tokenizer=text_tokenizer,
        fit=hf_text.fit_text,
        untrained=hf_text.text_untrained,
        heads=TEXT_HEADS,
    ),
    "data2vec-audio": HfFormat(
        modality="speech",
        recipe_of=hf_speech.speech_recipe,
        names=hf_speech.speech_names,
        prefix=hf_speech.PREFIX,
        config_of=hf_speech.speech_config,
        expressible=hf_speech.EXPRESSIBLE,
        own_config=hf_speech.OWN_CONFIG,
        shapes=hf_speech.speech_shapes,
        processor=speech_processor,
        preprocessor=speech_preprocessor,
        heads=SPEECH_HEADS,
    ),
    "data2vec-vision": HfFormat(
        modality="vision",
        recipe_of=hf_vision.vision_recipe,
        names=hf_vision.vision_names,
        prefix=hf_vision.PREFIX,
        config_of=hf_vision.vision_config,
        expressible=hf_vision.EXPRESSIBLE,
        own_config=hf_vision.OWN_CONFIG,
        shapes=hf_vision.vision_shapes,
        processor=vision_processor,
        preprocessor=vision_preprocessor,
        fit=hf_vision.fit_vision,
        may_lack=hf_vision.vision_may_lack,
        heads=VISION_HEADS,
    ),
}
"""By config.json's `model_type`."""


def format_of_config(config: dict[str, Any], source: str) -> HfFormat:
    """Return the format of a directory with this config.json. Raises: ConfigError, beginning with `source`, for another architecture."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FORMATS:
        raise ConfigError(f"{source}: its config.json has model_type {model_type!r}; name a directory of {', '.join(FORMATS)}")
    return FORMATS[model_type]


def format_of_modality(modality: str) -> HfFormat:
    """Return the format of a modality. Raises: ConfigError if transformers has no data2vec class for it."""
    for one in FORMATS.values():
        if one.modality == modality:
            return one
    there = ", ".join(one.modality for one in FORMATS.values())
    raise ConfigError(f"modality {modality}: transformers has no data2vec class for it, only for {there}; {ELSE}")


def format_of_recipe(recipe: Recipe) -> HfFormat:
    """Return the format in which a run of this recipe is exported: that of the modality, or, if it learned from labels, the one with the
    task's head. Raises: ConfigError if transformers has no class for it."""
    form, objective = format_of_modality(recipe.modality), recipe.objective
    if not isinstance(objective, SupervisedConfig):
        return form
    if objective.kind not in form.heads:
        raise ConfigError(
            f"objective {objective.kind}: transformers has no class for it on {recipe.modality}, only for {', '.join(form.heads)}; {ELSE}"
        )
    return with_head(form, form.heads[objective.kind])


def export_refusal(recipe: Recipe) -> str | None:
    """Return which setting transformers cannot express, and why; None if a run of this recipe can be exported."""
    try:
        format_of_recipe(recipe).expressible.check(recipe)
    except ConfigError as error:
        return str(error).partition(";")[0]
    return None


def with_head(form: HfFormat, head: HfHead) -> HfFormat:
    """Return the format of a model with the head of a task. Its tensors without head are those of `form`, with the format's prefix."""
    untrained = form.untrained
    return replace(
        form,
        names=lambda recipe: head.names(form.names(recipe), form.prefix),
        config_of=lambda recipe: form.config_of(recipe) | head.config(recipe),
        own_config=form.own_config | {"architectures": [head.architecture]},
        shapes=lambda config: head.all_shapes(form.shapes(config), form.prefix, config),
        processor=lambda recipe, run_dir: head.processor(recipe, form.processor(recipe, run_dir)),
        untrained=untrained and (lambda name, shape: untrained(name.removeprefix(form.prefix), shape)),
    )
