"""Reads the model of a Hugging Face Data2Vec directory for an imported run: recipe, weights, tokenizer, and notes about what it has not.
Writes nothing."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.config import Recipe
from recipes.interop.foreign_weights import ForeignWeights, checked
from recipes.interop.hf_files import CONFIG, PREPROCESSOR
from recipes.interop.hf_folder import HfFolder, find_hf_folder
from recipes.interop.hf_format import HfFormat, format_of_config
from recipes.interop.hf_text import TOKEN_TYPES, TOKENS, fold_token_types, has_token_type
from recipes.interop.imported_model import ImportedModel
from recipes.interop.imported_recipe import described_by, fitted, readable, template_of

BUFFERS = ("position_ids", "token_type_ids", "relative_position_index")
"""Ends of names of tensors that older releases of transformers saved, and newer ones compute."""
MAY_LACK = ("head.", "trunk.frontend.mask_vector")
"""Beginnings of names that may be missing. No such directory has a regression head, and some models have no mask vector."""
CLASS_NAMES = ("feature_extractor_type", "image_processor_type")
NO_COMMON_DEFAULT = ("size", "resample", "do_center_crop")
"""Settings of preprocessor_config.json for which the classes of transformers have different defaults."""
SAME = 1e-6


def read_hf_model(name: str, recipe_name: str | None, tokenizer: Path | None, *, downloads: bool = True) -> ImportedModel:
    """Return the model of the Hugging Face directory or hub name `name`, with a recipe that trains it. `recipe_name`: the recipe for all
    that it does not say, None: the modality's Base. `tokenizer`: file or folder of the tokenizer, None: the directory's. `downloads`: False
    reads a hub name only from an earlier download. Raises: ConfigError."""
    folder = HfFolder(find_hf_folder(name, downloads=downloads), f"--from {name}")
    model = read_hf_folder(folder, name, recipe_name, tokenizer)
    recipe = fitted(model.recipe, model.template, model.tokenizer, folder.source)
    return replace(model, recipe=recipe, source_config=(folder.path / CONFIG).read_bytes())


def read_hf_folder(folder: HfFolder, name: str, recipe_name: str | None = None, tokenizer: Path | None = None) -> ImportedModel:
    """Return the model of an opened directory, to be read and not trained: masks and data of its recipe are those of `recipe_name`, and
    need not fit. `name`: what the user has named, which may be the hub's name of this folder. The others: as for read_hf_model. Raises:
    ConfigError."""
    source = folder.source
    form = format_of_config(folder.config, source)
    template = template_of(form.modality, recipe_name)
    recipe = readable(described_by(folder.config, source, lambda: _recipe(form, folder.config, template)), source)
    kept = form.tokenizer(folder.path, recipe, tokenizer)
    names, prefix, notes = _names(folder, form)
    reader = _Reader(folder, prefix, names, form.shapes(form.own_config | folder.config))
    weights = ForeignWeights(form.names(recipe), names, reader.read, source)
    return ImportedModel(
        recipe,
        template,
        weights,
        teacher=None,
        may_lack=(*MAY_LACK, *form.may_lack(folder.config)),
        origin={"from": name, "format": "huggingface", "model_type": folder.config["model_type"]},
        tokenizer=kept,
        unread=reader.unread(weights.unread),
        notes=(*notes, *_notes_on_processor(folder.path, form, recipe)),
    )


def _recipe(form: HfFormat, config: dict[str, Any], template: Recipe) -> Recipe:
    """Return the template with front-end and encoder of the directory. How new weights start, and of how many layers the targets are the
    average, remains the template's."""
    recipe = form.recipe_of(template, config)
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


class _Reader:
    """Reads tensors of a directory by their names without prefix. The type of a token, of which data2vec has one, is added to every row
    of the token table."""

    def __init__(self, folder: HfFolder, prefix: str, names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`shapes`: name -> shape of the tensors that transformers' class has. Raises: ConfigError for wrong token types."""
        self._folder, self._prefix, self._shapes = folder, prefix, shapes
        self._types = {TOKEN_TYPES: self._unread(TOKEN_TYPES)} if TOKEN_TYPES in names else {}

    def _unread(self, name: str) -> Tensor:
        """Return a tensor for which this project has no place. Raises: ConfigError for another shape, or values that are not finite."""
        tensor = self._plain(name)
        return checked(tensor, name, self._shapes.get(name, tuple(tensor.shape)), self._folder.source)

    def _plain(self, name: str) -> Tensor:
        return self._folder.tensor(self._prefix + name)

    def read(self, name: str) -> Tensor:
        """Return the tensor as this project needs it."""
        tensor = self._plain(name)
        return fold_token_types({**self._types, TOKENS: tensor})[TOKENS] if name == TOKENS else tensor

    def unread(self, names: list[str]) -> dict[str, Callable[[], Tensor]]:
        """Return the functions that read what an export needs to write the directory's tensors again."""
        wanted = [name for name in names if not name.endswith(BUFFERS)]
        return {name: partial(self._unread, name) for name in (*wanted, *([TOKENS] if has_token_type(self._types) else []))}


def _notes_on_processor(folder: Path, form: HfFormat, recipe: Recipe) -> list[str]:
    """Return a line if the directory has no preprocessor_config.json though its modality has one, or if its samples are prepared in
    another way than this project does it."""
    if form.preprocessor is None:
        return []
    try:
        stored = json.loads((folder / PREPROCESSOR).read_text())
    except FileNotFoundError:
        return [f"the directory has no {PREPROCESSOR}; samples are prepared in this project's way"]
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        return [f"{PREPROCESSOR} cannot be read; samples are prepared in this project's way"]
    expected = {key: value for key, value in form.preprocessor(recipe).items() if key not in CLASS_NAMES}
    others = [f"{key} {stored.get(key)} (here {value})" for key, value in expected.items() if not _is_same(key, stored.get(key), value)]
    return [f"its {PREPROCESSOR} prepares samples in another way than this project: {', '.join(others)}"] if others else []


def _is_same(key: str, stored: Any, value: Any) -> bool:
    """True if a setting of preprocessor_config.json has the value of this project. `stored`: None if the file does not have it."""
    if stored is None:
        return key not in NO_COMMON_DEFAULT
    if isinstance(value, dict):  # a size; a number stands for both sides
        sides = stored if isinstance(stored, dict) else {"height": stored, "width": stored}
        return {name: number for name, number in sides.items() if number is not None} == value
    if isinstance(value, list):
        return isinstance(stored, list) and len(stored) == len(value) and all(map(_is_close, stored, value))
    return _is_close(stored, value) if isinstance(value, float) else stored == value


def _is_close(stored: Any, value: float) -> bool:
    return isinstance(stored, int | float) and math.isclose(stored, value, rel_tol=SAME)
