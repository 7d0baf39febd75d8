"""A pre-trained trunk outside any engine: where a --from points to, its recipe, its weights. One process, no head, no mask."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import init_parallel
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
class Source:
    """What a --from names."""

    run_dir: Path
    checkpoint: Path
    recipe: Recipe
    weights: str = "student"
    """Which of the two networks: a key of KIND_OF."""

    @property
    def prepared(self) -> Path:
        """The prepared data that the run trained on."""
        own, path = self.run_dir / "prepared", self.recipe.data.path
        return Path(path) if not own.exists() and path is not None and is_prepared(Path(path)) else own


def find_source(path: Path, weights: str = "student") -> Source:
    """The run and checkpoint behind a run dir or a checkpoint folder. Raises: ConfigError if there is none."""
    run_dir = path if (path / "config.json").exists() else path.parent.parent
    if path.exists() and not (path.is_dir() and (run_dir / "config.json").exists()):
        raise ConfigError(
            f"--from {path}: neither a run dir nor a checkpoint folder in one (no config.json); name a run dir such as runs/text_tiny"
        )
    checkpoint = find_checkpoint(path, "--from ")
    config = read_config(run_dir)
    assert config is not None  # it is there
    kinds = modality_of(str(config.recipe.get("modality")), f"--from {path}").kinds
    return Source(run_dir, checkpoint, recipe_from_dict(config.recipe, kinds, config.writer), weights)


def build_trunk(recipe: Recipe, device: torch.device) -> Trunk:
    """The trunk as the recipe's run starts it (the same random draw), in eval mode."""
    build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    parallel = init_parallel(1, device.type)
    trunk = Trunk(recipe.model, build_frontend, Init(recipe.run.seed), parallel, DropoutStream())
    return trunk.to(device).eval()


def load_trunk(source: Source, device: torch.device) -> Trunk:
    """The trunk with the weights of a checkpoint: the student's, or the teacher's (where it has some of its own, else the student's).

    Raises: ConfigError for another architecture, where there is no teacher, or where the run has removed the checkpoint.
    """
    if not source.checkpoint.exists():
        raise ConfigError(f"{source.checkpoint}: is gone; a run that goes on removes its old ones, so give the same command again")
    trunk = build_trunk(source.recipe, device)
    with torch.no_grad(), reading(source.checkpoint):
        reader = CheckpointReader(source.checkpoint)
        kind = KIND_OF[source.weights]
        own = set(reader.names(kind))
        if not own:
            raise ConfigError(f"{source.checkpoint}: has no {source.weights}; its objective has none, take --weights student")
        for name, parameter in trunk.named_parameters():
            full = f"trunk.{name}"
            parameter.copy_(reader.whole(kind if full in own else "master", full))
    return trunk
