"""Everything one run holds while it trains, and how it comes to be: run dir, data, engines, newest checkpoint, logs."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.parallel import init_parallel
from recipes.checkpoint.layout import Counters, latest, read_state
from recipes.checkpoint.load import load_checkpoint
from recipes.config import Recipe, recipe_to_dict
from recipes.data.loader import Dataset, UpdateLoader, UpdateOrder, check_enough, rank_share
from recipes.errors import ConfigError
from recipes.plan.size import num_parameters
from recipes.train.bad_items import BadItems
from recipes.train.ds_config import BatchPlan, EngineConfig
from recipes.train.engine import Engines, build_engines
from recipes.train.evaluate import heldout_batches
from recipes.train.metrics import Interval, MetricsWriter
from recipes.train.modality import MODALITIES
from recipes.train.preempt import StopRequest
from recipes.train.run_dir import RunDir, check_same_recipe
from recipes.train.world import World


class TrainData(NamedTuple):
    """What the run reads: its updates, its held-out samples, and what could not be decoded."""

    loader: UpdateLoader
    heldout: Dataset
    bad_items: BadItems


@dataclass
class TrainState:
    """Everything that one update reads and moves."""

    path: Path
    recipe: Recipe
    config: EngineConfig
    world: World
    engines: Engines
    data: TrainData
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
    heldout_batches(recipe, heldout, config.batch.micro_batch_size, parallel)  # complains now rather than at the first evaluation
    first_update = Counters(**read_state(checkpoint)["counters"]).update if checkpoint else 0
    loader = build_loader(recipe, train_data, config.batch, parallel.dp_rank, first_update=first_update)
    torch.use_deterministic_algorithms(recipe.run.deterministic)
    engines = build_engines(recipe, config, parallel)
    counters = load_checkpoint(checkpoint, engines) if checkpoint else Counters()
    data = TrainData(loader, heldout, BadItems(len(train_data), recipe.data.max_bad_fraction))
    state = TrainState(path, recipe, config, world, engines, data, counters, StopRequest())
    if world.rank == 0:
        state.run_dir = owned[0]
        _open_logs(state, facts | {"data_fingerprint": train_data.fingerprint}, time.perf_counter() - start)
    return state


def build_loader(recipe: Recipe, dataset: Dataset, batch: BatchPlan, dp_rank: int, *, first_update: int = 0) -> UpdateLoader:
    """This rank's loader; its worker processes start at once and read while the engines are built."""
    run, data = recipe.run, recipe.data
    return UpdateLoader(
        dataset,
        UpdateOrder(dataset, seed=run.seed, global_batch_size=run.global_batch_size, group_size=data.group_size),
        share=rank_share(run.global_batch_size, dp_rank, batch.dp_size),
        micro_batch_size=batch.micro_batch_size,
        num_workers=data.num_workers,
        first_update=first_update,
    )


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
