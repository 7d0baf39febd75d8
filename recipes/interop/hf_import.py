"""Reads the model of a Hugging Face Data2Vec directory for an imported run: recipe, weights, tokenizer, and notes about what it has not.
Writes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.config import Recipe
from recipes.data.images import IMAGENET_MEAN, IMAGENET_STD
from recipes.errors import ConfigError
from recipes.interop.foreign_weights import ForeignWeights
from recipes.interop.hf_files import CONFIG, PREPROCESSOR
from recipes.interop.hf_folder import HfFolder, find_hf_folder
from recipes.interop.hf_format import HfFormat, format_of_config
from recipes.interop.hf_text import TOKEN_TYPES, TOKENS
from recipes.interop.imported_model import ImportedModel
from recipes.interop.imported_recipe import described_by, fitted, template_of
from recipes.interop.imported_tokenizer import ImportedTokenizer, given_tokenizer, tokenizer_of_folder

BUFFERS = ("position_ids", "token_type_ids", "relative_position_index")
"""Ends of names of tensors that older releases of transformers saved, and newer ones compute."""
SAME = 1e-6


def read_hf_model(name: str, recipe_name: str | None, tokenizer: Path | None) -> ImportedModel:
    """Return the model of the Hugging Face directory or hub name `name`. `recipe_name`: the recipe for all that it does not say, None: the
    modality's Base. `tokenizer`: file or folder of the tokenizer, None: the directory's. Raises: ConfigError."""
    source = f"--from {name}"
    folder = HfFolder(find_hf_folder(name), source)
    form = format_of_config(folder.config, source)
    template = template_of(form.modality, recipe_name)
    recipe = _recipe(form, folder.config, template, source)
    kept = READ_TOKENIZER.get(form.modality, _no_tokenizer)(folder.path, recipe, tokenizer)
    recipe = fitted(recipe, template, kept, source)
    names, prefix, notes = _names(folder, form)
    reader = _Reader(folder, prefix, names)
    weights = ForeignWeights(form.names(recipe), names, reader.read, source)
    return ImportedModel(
        recipe,
        template,
        weights,
        teacher=None,
        may_lack=_may_lack(folder.config),
        origin={"from": name, "format": "huggingface", "model_type": folder.config["model_type"]},
        tokenizer=kept,
        source_config=(folder.path / CONFIG).read_bytes(),
        unread=reader.unread(weights.unread),
        notes=(*notes, *_notes_on_processor(folder.path, recipe)),
    )


def _recipe(form: HfFormat, config: dict[str, Any], template: Recipe, source: str) -> Recipe:
    """Return the template with front-end and encoder of the directory. How new weights start, and of how many layers the targets are the
    average, remains the template's."""
    recipe = described_by(config, source, lambda: form.recipe_of(template, config))
    old, new = template.model, recipe.model
    starts = {"truncated_init": old.block.truncated_init, "depth_scaled_init": old.block.depth_scaled_init}
    block = replace(new.block, **starts)
    model = replace(new, block=block, init_std=old.init_std, head_layers=old.head_layers, head_init=old.head_init)
    num_averaged = min(template.teacher.average_top_k_layers, model.num_layers)
    return replace(recipe, model=model, teacher=replace(template.teacher, average_top_k_layers=num_averaged))


def _names(folder: HfFolder, form: HfFormat) -> tuple[list[str], str, list[str]]:
    """Return the names of data2vec's own tensors without prefix, the prefix that the file has before them, and notes. In a model with a
    task's head, the prefix distinguishes them from the head's."""
    inner = [name.removeprefix(form.prefix) for name in folder.names if name.startswith(form.prefix)]
    if not inner:
        return folder.names, "", []
    others = [name for name in folder.names if not name.startswith(form.prefix)]
    modules = sorted({name.partition(".")[0] for name in others})
    note = [f"left out: {len(others)} tensors of a task's head ({', '.join(modules)})"] if others else []
    return inner, form.prefix, note


def _may_lack(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the beginnings of names that may be missing. No such directory has a regression head, and some models have no mask vector. A
    model that averages its outputs has no norm after its last block."""
    common = ("head.", "trunk.frontend.mask_vector")
    return (*common, "trunk.encoder.final_norm.") if config.get("use_mean_pooling") else common


class _Reader:
    """Reads tensors of a directory by their names without prefix. The type of a token, of which data2vec has one, is added to every row
    of the token table."""

    def __init__(self, folder: HfFolder, prefix: str, names: list[str]) -> None:
        self._folder, self._prefix = folder, prefix
        types = self._plain(TOKEN_TYPES) if TOKEN_TYPES in names else None
        self._type_D = None if types is None or not types[:1].any() else types[0]  # adding zeros would turn -0.0 into 0.0

    def _plain(self, name: str) -> Tensor:
        return self._folder.tensor(self._prefix + name)

    def read(self, name: str) -> Tensor:
        """Return the tensor as this project needs it."""
        tensor = self._plain(name)
        if name != TOKENS or self._type_D is None or tensor.shape[-1:] != self._type_D.shape:
            return tensor
        return tensor + self._type_D

    def unread(self, names: list[str]) -> dict[str, Callable[[], Tensor]]:
        """Return the functions that read what an export needs to write the directory's tensors again."""
        wanted = [name for name in names if not name.endswith(BUFFERS)]
        return {name: partial(self._plain, name) for name in (*wanted, *([TOKENS] if self._type_D is not None else []))}


def _text_tokenizer(folder: Path, recipe: Any, given: Path | None) -> ImportedTokenizer:
    vocab_size = recipe.frontend.vocab_size
    return given_tokenizer(given, vocab_size) if given else tokenizer_of_folder(folder, vocab_size)


def _no_tokenizer(folder: Path, recipe: Recipe, given: Path | None) -> ImportedTokenizer:
    if given is not None:
        raise ConfigError(f"--tokenizer {given}: a model of modality {recipe.modality} reads no tokens; leave it out")
    return ImportedTokenizer()


READ_TOKENIZER: dict[str, Callable[[Path, Any, Path | None], ImportedTokenizer]] = {"text": _text_tokenizer}
"""Modality -> function that returns the tokenizer of a directory, for modalities that have one."""


def _notes_on_processor(folder: Path, recipe: Recipe) -> list[str]:
    """Return a line if the directory has no preprocessor_config.json though its modality has one, or if its samples are prepared in
    another way than this project does it."""
    expected_of = PROCESSORS.get(recipe.modality)
    if expected_of is None:
        return []
    try:
        stored = json.loads((folder / PREPROCESSOR).read_text())
    except FileNotFoundError:
        return [f"the directory has no {PREPROCESSOR}; samples are prepared in this project's way"]
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        return [f"{PREPROCESSOR} cannot be read; samples are prepared in this project's way"]
    expected = {key: value for key, value in expected_of(recipe, stored).items() if key in stored}
    others = [f"{key} {stored[key]} (here {value})" for key, value in expected.items() if not _is_same(stored[key], value)]
    return [f"its {PREPROCESSOR} prepares samples in another way than this project: {', '.join(others)}"] if others else []


def _is_same(stored: Any, value: Any) -> bool:
    if isinstance(value, int) and isinstance(stored, dict):  # a size, as a number or by height and width
        return bool(stored) and all(number == value for number in stored.values())
    if isinstance(value, list) and isinstance(stored, list) and len(value) == len(stored):
        return all(isinstance(one, int | float) and abs(one - two) < SAME for one, two in zip(stored, value, strict=True))
    return stored == value


def _image_processor(recipe: Any, stored: dict[str, Any]) -> dict[str, Any]:
    normalized = {"do_normalize": True, "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    size = "crop_size" if stored.get("do_center_crop") else "size"
    return {**normalized, "do_rescale": True, size: recipe.frontend.image_size}


def _audio_processor(recipe: Any, stored: dict[str, Any]) -> dict[str, Any]:
    return {"do_normalize": True, "sampling_rate": recipe.data.sample_rate, "feature_size": 1}


PROCESSORS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {"vision": _image_processor, "speech": _audio_processor}
"""Modality -> function of (recipe, content of preprocessor_config.json): what the file contains if its samples are prepared in this
project's way."""
