"""Finds the run that --from names, and builds its trunk (the network without its head) with the run's weights, in one process and without
DeepSpeed. Models in Hugging Face's format are read in model_source.py."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel, init_parallel
from model.trunk import Trunk
from recipes.config import Recipe
from recipes.interop.stored_run import StoredRun, find_stored_run, prepared_of
from recipes.interop.stored_weights import StoredWeights
from recipes.modalities.registry import modality_of


@dataclass(frozen=True)
class TrainedRun(StoredRun):
    """A run and one of its checkpoints, of which one network is read without its head."""

    weights: str = "student"
    """Which network is read, student or teacher: a key of KIND_OF in recipes/interop/consolidate.py."""

    @property
    def prepared(self) -> Path:
        """The folder of the prepared data on which the run was trained."""
        return prepared_of(self.run_dir, self.recipe)


def find_run(path: Path, weights: str = "student", flag: str = "--from ") -> TrainedRun:
    """Return the run and its checkpoint. `path`: a run dir (its newest complete checkpoint is taken) or a checkpoint folder. `weights`:
    student or teacher. `flag`: the option that `path` was given with. Raises: ConfigError if there is no run or no checkpoint."""
    return TrainedRun(**vars(find_stored_run(path, flag)), weights=weights)


def build_trunk(recipe: Recipe, device: torch.device, parallel: Parallel | None = None) -> Trunk:
    """Return the trunk (the network without its head) with the random weights with which a run of this recipe starts, in eval mode.
    `parallel`: the groups of its layers. None: new groups, each of one rank, which all ranks make together."""
    build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    parallel = parallel or init_parallel(1, device.type)
    trunk = Trunk(recipe.model, build_frontend, Init(recipe.run.seed), parallel, DropoutStream())
    return trunk.to(device).eval()


def load_trunk(run: TrainedRun, device: torch.device, parallel: Parallel | None = None) -> Trunk:
    """Return the trunk (the network without its head) with the student's or the teacher's weights of the checkpoint, in eval mode. For
    weights that the teacher shares with the student, the student's are read. `parallel`: as for build_trunk.

    Raises: ConfigError if the architecture differs, if there is no teacher, or if the run has removed the checkpoint.
    """
    stored = StoredWeights(run.checkpoint, run.weights)
    trunk = build_trunk(run.recipe, device, parallel)
    stored.copy_into(trunk, "trunk.")
    return trunk
