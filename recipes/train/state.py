"""Everything one run holds while it trains, and how it comes to be: run dir, data, engines, newest checkpoint, logs."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.parallel import init_parallel
from recipes.checkpoint.layout import Counters, latest
from recipes.checkpoint.load import load_checkpoint
from recipes.config import Recipe, recipe_to_dict
from recipes.data.loader import Dataset, UpdateLoader, check_enough, eval_batches
from recipes.errors import ConfigError
from recipes.plan.size import num_parameters
from recipes.train.ds_config import EngineConfig
from recipes.train.engine import Engines, build_engines
from recipes.train.metrics import Interval, MetricsWriter
from recipes.train.modality import MODALITIES
from recipes.train.preempt import StopRequest
from recipes.train.run_dir import RunDir, check_same_recipe
from recipes.train.world import World


@dataclass
class TrainState:
    """Everything that one update reads and moves."""

    path: Path
    recipe: Recipe
    config: EngineConfig
    world: World
    engines: Engines
    loader: UpdateLoader
    heldout: Dataset
    counters: Counters
    stop: StopRequest
    writer: MetricsWriter | None = None  # on rank 0
    run_dir: RunDir | None = None  # on rank 0
    interval: Interval = field(default_factory=Interval)

    @property
    def step(self) -> int:
        """Optimizer updates applied so far."""
        return self.counters.step


def setup(recipe: Recipe, config: EngineConfig, path: Path, world: World, facts: dict[str, Any], owned: list[RunDir]) -> TrainState | None:
    """Take the run dir, prepare the data, build the engines, load the newest checkpoint. None where the run is finished.

    `owned` receives the run dir on rank 0, so that the caller can give it up however setup ends. Raises: ConfigError.
    """
    start = time.perf_counter()

    def take() -> Path | None:
        owned.append(RunDir(path))
        check_same_recipe(path, recipe)
        return latest(path)

    checkpoint = world.once(take)
    if checkpoint and int(checkpoint.name.removeprefix("step_")) >= recipe.run.max_steps:
        if world.rank == 0:
            print(f"{path} is finished ({checkpoint.name}); --set run.max_steps=N continues it, another --run-dir starts a new run")
        return None
    modality = MODALITIES[recipe.modality]
    prepared = world.once(lambda: _prepare(recipe, path / "prepared"))
    train_data, heldout = modality.open_data(recipe, prepared)
    parallel = init_parallel(config.batch.tp_size, world.device.type)
    loader = UpdateLoader(
        train_data,
        seed=recipe.run.seed,
        global_batch_size=recipe.run.global_batch_size,
        micro_batch_size=config.batch.micro_batch_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )
    eval_batches(  # for its complaint, now rather than at the first evaluation
        heldout,
        max_samples=recipe.run.eval_samples,
        micro_batch_size=config.batch.micro_batch_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )
    torch.use_deterministic_algorithms(recipe.run.deterministic)
    engines = build_engines(recipe, config, parallel)
    counters = load_checkpoint(checkpoint, engines) if checkpoint else Counters()
    state = TrainState(path, recipe, config, world, engines, loader, heldout, counters, StopRequest())
    if world.rank == 0:
        state.run_dir = owned[0]
        _open_logs(state, facts | {"data_fingerprint": train_data.fingerprint}, time.perf_counter() - start)
    return state


def _prepare(recipe: Recipe, folder: Path) -> Path:
    """The prepared data, found or made. Data that cannot fill one batch leave nothing behind."""
    modality, is_new = MODALITIES[recipe.modality], not folder.exists()
    prepared = modality.prepare(recipe, folder, progress=True, log=print)
    try:
        check_enough(modality.open_data(recipe, prepared)[0], recipe.run.global_batch_size)
    except ConfigError:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return prepared


def _open_logs(state: TrainState, facts: dict[str, Any], seconds: float) -> None:
    recipe, run_dir, batch = state.recipe, state.run_dir, state.config.batch
    assert run_dir is not None
    content = {"recipe": recipe_to_dict(recipe), "deepspeed_config": state.config.path, "deepspeed": state.config.deepspeed, **facts}
    run_dir.save_config(content | {"world_size": batch.world_size, "tp_size": batch.tp_size})
    state.writer = MetricsWriter(run_dir.open_metrics(state.step), recipe, run_dir.path, state.engines.device, state.step)
    run_dir.event(
        "resume" if state.step else "start", step=state.step, setup_seconds=seconds, world_size=batch.world_size, tp_size=batch.tp_size
    )
    for line in start_block(state, seconds):
        state.writer.say(line)


def start_block(state: TrainState, seconds: float) -> list[str]:
    """What, where, how big: the first lines on the terminal."""
    recipe, batch = state.recipe, state.config.batch
    assert state.run_dir is not None
    return [
        f"{recipe.name}: {num_parameters(recipe):,} parameters, {state.config.precision}, {state.config.path}",
        f"{batch.world_size} ranks = data-parallel {batch.dp_size} x tensor-parallel {batch.tp_size}; "
        f"update of {recipe.run.global_batch_size} samples = {batch.dp_size} x micro {batch.micro_batch_size} x accumulation "
        f"{batch.accumulation_steps}",
        f"run dir {state.run_dir.path}, {'resumed at' if state.step else 'from'} step {state.step} to {recipe.run.max_steps}; "
        f"ready in {seconds:.1f} s",
    ]
