"""A pre-trained trunk outside any engine: where a --from points to, its recipe, its weights. One process, no head, no mask."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import init_parallel
from model.student import Trunk
from recipes.catalog import RECIPES, default_recipe
from recipes.checkpoint.layout import newest
from recipes.checkpoint.load import CheckpointReader
from recipes.config import Recipe, recipe_from_dict
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES


@dataclass(frozen=True)
class Source:
    """What a --from names."""

    run_dir: Path
    checkpoint: Path
    recipe: Recipe

    @property
    def prepared(self) -> Path:
        """The prepared data that the run trained on."""
        own = self.run_dir / "prepared"
        return own if own.exists() or self.recipe.data.path is None else Path(self.recipe.data.path)


def find_source(path: Path) -> Source:
    """The run and checkpoint behind a run dir or a checkpoint folder. Raises: ConfigError if there is none."""
    if not path.exists():
        raise ConfigError(f"--from {path}: no such folder; name a run dir (runs/text_tiny) or a folder checkpoints/step_N in one")
    run_dir = path if (path / "config.json").exists() else path.parent.parent
    if not (run_dir / "config.json").exists() or not path.is_dir():
        raise ConfigError(
            f"--from {path}: neither a run dir nor a checkpoint folder in one (no config.json); name a run dir such as runs/text_tiny"
        )
    checkpoint = newest(path) if path == run_dir else path
    if checkpoint is None:
        raise ConfigError(f"--from {path}: the run has no complete checkpoint yet; wait for one (run.save_steps) or let the run end")
    stored = json.loads((run_dir / "config.json").read_text())["recipe"]
    modality = stored["modality"]
    if modality not in RECIPES:
        raise ConfigError(f"--from {path}: recipe {stored['name']} is of modality {modality!r}, which this version does not know")
    template = RECIPES[modality][default_recipe(modality)]()
    return Source(run_dir, checkpoint, recipe_from_dict(template, stored))


def build_trunk(recipe: Recipe, device: torch.device) -> Trunk:
    """The trunk as the recipe's run starts it (the same random draw), in eval mode."""
    build_frontend = MODALITIES[recipe.modality].build_frontend(recipe)
    parallel = init_parallel(1, device.type)
    trunk = Trunk(recipe.model, build_frontend, Init(recipe.run.seed), parallel, DropoutStream())
    return trunk.to(device).eval()


def load_trunk(source: Source, device: torch.device) -> Trunk:
    """The trunk with the student's weights of a checkpoint. Raises: ConfigError for another architecture."""
    trunk, reader = build_trunk(source.recipe, device), CheckpointReader(source.checkpoint)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            parameter.copy_(reader.whole("master", f"trunk.{name}"))
    return trunk
