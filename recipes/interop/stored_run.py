"""Finds the run and the checkpoint that --from names, and reads the run's recipe. Torch-free. Tensors: stored_weights.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.checkpoint.inspect import find_checkpoint
from recipes.config import Recipe
from recipes.data.folder import format_names
from recipes.data.tokenizer_files import tokenizer_in
from recipes.errors import ConfigError
from recipes.modalities.registry import modality_of
from recipes.run_dir.run_dir import read_config
from recipes.settings import recipe_from_dict


@dataclass(frozen=True)
class StoredRun:
    """A run dir and one of its checkpoints."""

    run_dir: Path
    checkpoint: Path
    recipe: Recipe
    content: dict[str, Any] = field(default_factory=dict)
    """The whole of config.json."""


def prepared_of(run_dir: Path, recipe: Recipe) -> Path:
    """Return the folder of the prepared data on which a run was trained."""
    from recipes.data.shards import is_prepared  # here, since it imports numpy, and --help must be quick

    own, path = run_dir / "prepared", recipe.data.path
    return Path(path) if not own.exists() and path is not None and is_prepared(Path(path)) else own


def tokenizer_folder(run_dir: Path, recipe: Recipe) -> Path | None:
    """Return the folder that has the tokenizer of a run: that of its prepared data, else the run dir; None if neither has."""
    return next((folder for folder in (prepared_of(run_dir, recipe), run_dir) if tokenizer_in(folder)), None)


def find_stored_run(path: Path, flag: str = "--from ") -> StoredRun:
    """Return the run and its checkpoint. `path`: a run dir (its newest complete checkpoint is taken) or a checkpoint folder in one.
    `flag`: the option that `path` was given with. Raises: ConfigError if there is no run or no checkpoint."""
    run_dir = path if (path / "config.json").exists() else path.parent.parent
    if path.exists() and not (path.is_dir() and (run_dir / "config.json").exists()):
        runs = sorted(config.parent.name for config in path.glob("*/config.json"))  # such as those of several seeds
        there = f"there are runs in it ({format_names(runs)}); name one" if runs else "name a run dir such as runs/text_tiny"
        raise ConfigError(f"{flag}{path}: neither a run dir nor a checkpoint folder in one (no config.json); {there}")
    checkpoint = find_checkpoint(path, flag)
    config = read_config(run_dir)
    assert config is not None  # config.json exists
    kinds = modality_of(str(config.recipe.get("modality")), f"{flag}{path}").kinds
    return StoredRun(run_dir, checkpoint, recipe_from_dict(config.recipe, kinds, config.writer), config.content)
