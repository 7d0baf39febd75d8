"""Finds the run that --from names, and builds its trunk (the network without its head) with the run's weights, in one process and without
DeepSpeed. Models in Hugging Face's format are read in model_source.py."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel, init_parallel
from model.trunk import Trunk
from recipes.checkpoint.inspect import find_checkpoint, reading
from recipes.checkpoint.load import CheckpointReader
from recipes.config import Recipe
from recipes.data.shards import is_prepared
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.modalities.registry import modality_of
from recipes.run_dir.run_dir import read_config
from recipes.settings import recipe_from_dict


@dataclass(frozen=True)
class TrainedRun:
    """A run and one of its checkpoints. The trunk of this checkpoint (the network without its head) is read."""

    run_dir: Path
    checkpoint: Path
    recipe: Recipe
    weights: str = "student"
    """Which network is read, student or teacher: a key of KIND_OF."""

    @property
    def prepared(self) -> Path:
        """The folder of the prepared data on which the run was trained."""
        own, path = self.run_dir / "prepared", self.recipe.data.path
        return Path(path) if not own.exists() and path is not None and is_prepared(Path(path)) else own


def find_run(path: Path, weights: str = "student") -> TrainedRun:
    """Return the run and its checkpoint. `path`: a run dir (its newest complete checkpoint is taken) or a checkpoint folder. `weights`:
    student or teacher. Raises: ConfigError if there is no run or no checkpoint."""
    run_dir = path if (path / "config.json").exists() else path.parent.parent
    if path.exists() and not (path.is_dir() and (run_dir / "config.json").exists()):
        raise ConfigError(
            f"--from {path}: neither a run dir nor a checkpoint folder in one (no config.json); name a run dir such as runs/text_tiny"
        )
    checkpoint = find_checkpoint(path, "--from ")
    config = read_config(run_dir)
    assert config is not None  # config.json exists
    kinds = modality_of(str(config.recipe.get("modality")), f"--from {path}").kinds
    return TrainedRun(run_dir, checkpoint, recipe_from_dict(config.recipe, kinds, config.writer), weights)


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
    if not run.checkpoint.exists():
        raise ConfigError(f"{run.checkpoint}: is gone; a run that goes on removes its old ones, so give the same command again")
    trunk = build_trunk(run.recipe, device, parallel)
    with torch.no_grad(), reading(run.checkpoint):
        reader = CheckpointReader(run.checkpoint)
        kind = KIND_OF[run.weights]
        own = set(reader.names(kind))
        if not own:
            raise ConfigError(f"{run.checkpoint}: has no {run.weights}; its objective has none, take --weights student")
        for name, parameter in trunk.named_parameters():
            full = f"trunk.{name}"
            parameter.copy_(reader.whole(kind if full in own else "master", full))
    return trunk
