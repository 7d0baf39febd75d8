"""Finds the trained network that a user names, in any format: a run dir, a checkpoint folder, a Hugging Face directory or hub name. What is
done with it is decided elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from model.parallel import Parallel
from model.trunk import Trunk
from recipes.checkpoint.inspect import is_hugging_face, reading
from recipes.checkpoint.layout import read_manifest
from recipes.config import Recipe
from recipes.data.shards import recorded_encoding
from recipes.data.tokenizer import StoredTokenizer, stored_tokenizer
from recipes.errors import ConfigError
from recipes.interop.hf_folder import HfFolder, find_hf_folder
from recipes.interop.hf_import import read_hf_folder
from recipes.interop.imported_model import fill
from recipes.interop.stored_run import tokenizer_folder
from recipes.interop.trunk import TrainedRun, build_trunk, find_run, load_trunk


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
    tokenizer: Callable[[], StoredTokenizer]
    """Reads the tokenizer, for a modality that has one. Raises: ConfigError if it is not there."""
    load: Callable[[torch.device, Parallel], Trunk]
    """Returns the trunk with the weights, in eval mode. Raises: ConfigError if the weights cannot be read."""
    notes: tuple[str, ...] = ()
    """Lines for the user: in which way features of this project differ from those of the model's own, and what of it is not read."""


def find_source(name: str, weights: str = "student", flag: str = "--from ") -> ModelSource:
    """Return the network that `name` is: a run dir (its newest checkpoint), a checkpoint folder, a Hugging Face directory, or a hub name,
    which is downloaded if needed. `weights`: student or teacher. `flag`: the option that `name` was given with, such as "--from ", or "".

    Raises: ConfigError if there is no such model, if its architecture is not known, or if it has no teacher.
    """
    path = Path(name).expanduser()
    if path.exists() and not is_hugging_face(path):
        return _of_run(path, weights, flag)
    return _of_hugging_face(name, weights, flag)


def _of_run(path: Path, weights: str, flag: str) -> ModelSource:
    run = find_run(path, weights, flag)
    with reading(run.checkpoint):
        step = read_manifest(run.checkpoint).counters.step

    return ModelSource(str(run.checkpoint.resolve()), run.recipe, weights, step, partial(_tokenizer, run), partial(load_trunk, run))


def _tokenizer(run: TrainedRun) -> StoredTokenizer:
    """Return the tokenizer of a run. If its prepared data are gone, the run dir has it, and config.json the version of its encoding."""
    folder = tokenizer_folder(run.run_dir, run.recipe) or run.prepared
    stored = stored_tokenizer(folder)
    return stored if folder == run.prepared else stored._replace(encoding=recorded_encoding(run.content))


def _of_hugging_face(name: str, weights: str, flag: str) -> ModelSource:
    source = f"{flag}{name}"
    if weights != "student":
        raise ConfigError(f"{source}: a Hugging Face directory has one network and no {weights}; ask for the student")
    path = find_hf_folder(name, flag)
    model = read_hf_folder(HfFolder(path, source), name)
    if model.tokenizer.is_needed:
        raise ConfigError(f"{source}: {model.tokenizer.reason}; put the model's tokenizer.json there")

    def load(device: torch.device, parallel: Parallel) -> Trunk:
        trunk = build_trunk(model.recipe, device, parallel)
        fill({f"trunk.{own}": parameter for own, parameter in trunk.named_parameters()}, model)
        return trunk

    def tokenizer() -> StoredTokenizer:
        assert model.tokenizer.file is not None, "only a modality with a tokenizer calls this"
        return StoredTokenizer(model.tokenizer.file)  # in its canonical form, by which its ids were checked

    resolved = str(path.resolve()) if Path(name).expanduser().exists() else name
    return ModelSource(resolved, model.recipe, weights, None, tokenizer, load, model.notes)
