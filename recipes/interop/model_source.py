"""Finds the trained network that a user names, in any format: a run dir, a checkpoint folder, a Hugging Face directory or hub name. What is
done with it is decided elsewhere."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.parallel import Parallel
from model.trunk import Trunk
from recipes.checkpoint.inspect import reading
from recipes.checkpoint.layout import read_manifest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.hf_folder import CONFIG, HfFolder, find_hf_folder
from recipes.interop.hf_format import format_of_config
from recipes.interop.hf_text import fold_token_types
from recipes.interop.names import without_prefix
from recipes.interop.trunk import build_trunk, find_run, load_trunk

MAY_LACK = ("trunk.frontend.mask_vector", "trunk.encoder.final_norm.")
"""Beginnings of the names of tensors that a Hugging Face directory may lack: outputs of blocks without a mask do not depend on them."""


@dataclass(frozen=True)
class ModelSource:
    """A trained network that a user has named."""

    name: str
    """Full path of the checkpoint or directory, or the hub name."""
    recipe: Recipe
    weights: str
    """student, or teacher, which is the student's EMA."""
    step: int | None
    """Optimizer updates of the checkpoint; None if the format does not say it."""
    tokenizer_folder: Path
    """The folder with the tokenizer, for a modality that has one."""
    load: Callable[[torch.device, Parallel], Trunk]
    """Returns the trunk with the weights, in eval mode. Raises: ConfigError if the weights cannot be read."""


def find_source(name: str, weights: str = "student") -> ModelSource:
    """Return the network that `name` is: a run dir (its newest checkpoint), a checkpoint folder, a Hugging Face directory, or a hub name,
    which is downloaded if needed. `weights`: student or teacher.

    Raises: ConfigError if there is no such model, if its architecture is not known, or if it has no teacher.
    """
    path = Path(name).expanduser()
    config = _config(path)
    if path.exists() and not (config is not None and "model_type" in config):
        return _of_run(path, weights)
    return _of_hugging_face(name, weights)


def _config(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        config = json.loads((folder / CONFIG).read_text())
        return config if isinstance(config, dict) else None
    return None


def _of_run(path: Path, weights: str) -> ModelSource:
    run = find_run(path, weights)
    with reading(run.checkpoint):
        step = read_manifest(run.checkpoint).counters.step

    def load(device: torch.device, parallel: Parallel) -> Trunk:
        return load_trunk(run, device, parallel)

    return ModelSource(str(run.checkpoint.resolve()), run.recipe, weights, step, run.prepared, load)


def _of_hugging_face(name: str, weights: str) -> ModelSource:
    source = f"--from {name}"
    if weights != "student":
        raise ConfigError(f"{source}: a Hugging Face directory has one network and no teacher; leave out --weights {weights}")
    folder = HfFolder(find_hf_folder(name), source)
    form = format_of_config(folder.config, source)
    try:
        recipe = form.recipe_of(form.template(), folder.config)
    except KeyError as error:
        raise ConfigError(f"{source}: its {CONFIG} has no {error}; copy the file again") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None

    def load(device: torch.device, parallel: Parallel) -> Trunk:
        state = without_prefix({tensor: folder.tensor(tensor) for tensor in folder.names}, form.prefix)
        trunk = build_trunk(recipe, device, parallel)
        fill(trunk, form.names(recipe).to_ours(fold_token_types(state)), source)
        return trunk

    resolved = str(folder.path.resolve()) if Path(name).expanduser().exists() else name
    return ModelSource(resolved, recipe, weights, None, folder.path, load)


@torch.no_grad()
def fill(trunk: Trunk, tensors: dict[str, Tensor], source: str) -> None:
    """Write whole tensors, by name, into the trunk. `source`: beginning of error messages. Raises: ConfigError if names or sizes are not
    those of the trunk."""
    parameters = {f"trunk.{name}": parameter for name, parameter in trunk.named_parameters()}
    missing = sorted(name for name in parameters.keys() - tensors.keys() if not name.startswith(MAY_LACK))
    if missing or tensors.keys() - parameters.keys():
        wrong = [f"lack {len(missing)} tensors, such as {missing[0]}"] if missing else []
        surplus = sorted(tensors.keys() - parameters.keys())
        wrong += [f"have {len(surplus)} that {CONFIG} does not describe, such as {surplus[0]}"] if surplus else []
        raise ConfigError(f"{source}: its weights {' and '.join(wrong)}; do they belong to this {CONFIG}?")
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            found = f"{name} has shape {tuple(tensor.shape)}, {CONFIG} describes {tuple(parameters[name].shape)}"
            raise ConfigError(f"{source}: {found}; do weights and {CONFIG} belong together?")
        parameters[name].copy_(tensor)
