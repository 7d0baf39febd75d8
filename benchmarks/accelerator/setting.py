"""Set-up that many checks share: join the ranks and build groups, load a shipped ds_config, build a tiny recipe's engines."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.batch import Batch
from model.parallel import Parallel, init_parallel
from recipes.catalog import RECIPES
from recipes.cluster.checkout import ROOT
from recipes.cluster.environment import quiet_libraries
from recipes.cluster.launch_info import launch_info
from recipes.cluster.world import World, join_world, leave_world
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from recipes.train.kernels import choose_kernels
from step_recipe import random_batch

LENGTH = {"text": 64, "speech": 1, "vision": 0}
"""Length of a sample of TinyRun, by modality: tokens of a text, seconds of a recording; 0 for images, which have none."""
BATCH = 4


@contextmanager
def joined_world() -> Iterator[tuple[World, Parallel]]:
    """Free the memory that checks before have left, join the ranks (without a launcher there is one), choose kernels as training does, and
    yield the world and its process groups without tensor parallelism. At the end, leave them."""
    gc.collect()  # here and not at the end, when the check's own variables still hold its engines
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    world = join_world()
    choose_kernels(torch.are_deterministic_algorithms_enabled())
    try:
        yield world, init_parallel(1, world.device.type)
    finally:
        leave_world()


def shipped_config(
    recipe: Recipe, name: str, micro_batch_size: int | str = "auto", *, ranks: int = 1, more: dict[str, Any] | None = None
) -> EngineConfig:
    """Load ds_configs/NAME.json and complete it for this recipe, micro-batch and number of ranks. The top-level keys in `more` replace
    those of the file."""
    path = ROOT / "ds_configs" / f"{name}.json"
    return resolve(recipe, load_ds_config(path) | (more or {}) | {"train_micro_batch_size_per_gpu": micro_batch_size}, str(path), ranks)


def run_recipe(recipe: Recipe, config_name: str, run_dir: Path) -> None:
    """Train the recipe in this process, with the loop that the launch scripts call and a shipped ds_config."""
    from recipes.train import loop

    quiet_libraries()
    os.environ.pop("MASTER_PORT", None)  # each run in this process opens its own port
    code = loop.run(recipe, shipped_config(recipe, config_name), run_dir, launch_info())
    assert code == 0, f"the run ended with {code}"


@dataclass(frozen=True)
class TinyRun:
    """The engines of a tiny recipe, and a batch of random samples on their device."""

    objective: Any
    batch: Batch

    @staticmethod
    def build(modality: str, config_name: str, world: World, parallel: Parallel) -> "TinyRun":
        """Build the engines of the modality's tiny recipe, and a random batch. This is a collective: all ranks must call it."""
        length = LENGTH[modality]
        recipe = MODALITIES[modality].resized(RECIPES[modality][f"{modality}_tiny"](), length)
        config = shipped_config(recipe, config_name, recipe.run.global_batch_size // parallel.dp_size, ranks=parallel.dp_size)
        objective = build_objective(recipe, config, parallel)
        return TinyRun(objective, random_batch(recipe, BATCH, length).to(world.device))
