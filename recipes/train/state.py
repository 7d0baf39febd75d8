"""Everything one run holds while it trains, and how it comes to be: run dir, data, engines, newest checkpoint, logs."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.parallel import init_parallel
from recipes.checkpoint.layout import Counters, newest, read_manifest, step_folder, step_of
from recipes.checkpoint.restore import load_newest
from recipes.checkpoint.retention import remove_leftovers
from recipes.checkpoint.save import CheckpointSaver
from recipes.cluster.world import World
from recipes.cluster.world_check import check_run_dir, check_same, check_world
from recipes.config import Recipe, recipe_to_dict
from recipes.data.loader import Dataset, UpdateLoader, UpdateOrder, check_enough, rank_share
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.engine import shards
from recipes.engine.build import Engines, build_engines
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.objectives.evaluate import heldout_batches
from recipes.plan.size import num_parameters
from recipes.run_dir.run_dir import RunDir, check_same_data, check_same_recipe
from recipes.train.bad_items import BadItems
from recipes.train.metrics import Interval, MetricsWriter
from recipes.train.plot import CURVES, plot_metrics
from recipes.train.preempt import StopRequest
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
from recipes.watch import endings
from recipes.watch.watch import Watch


class TrainData(NamedTuple):
    """What the run reads: its updates, its held-out samples, and what could not be decoded."""

    loader: UpdateLoader
    heldout: Dataset
    bad_items: BadItems


@dataclass
class TrainState:
    """Everything that one update reads and moves."""

    recipe: Recipe
    config: EngineConfig
    world: World
    engines: Engines
    data: TrainData
    counters: Counters
    saving: Saving
    spikes: SpikeStatistic
    stop: StopRequest
    watch: Watch
    writer: MetricsWriter | None = None  # on rank 0
    interval: Interval = field(default_factory=Interval)

    @property
    def step(self) -> int:
        """Optimizer updates applied so far."""
        return self.counters.step

    @property
    def run_dir(self) -> RunDir | None:
        """On rank 0, the run dir."""
        return self.saving.run_dir

    def beat(self, phase: str, micro_batch: int = 0) -> None:
        """This rank has come to `phase`. Every rank says so at the same places."""
        self.watch.beat(self.step, phase, micro_batch)

    def small_states(self) -> dict[str, Any]:
        """What a checkpoint holds beside shards and counters."""
        return {"loss_scaler": shards.loss_scaler_state(self.engines.student), "spikes": self.spikes.state()}


def setup(
    recipe: Recipe,
    config: EngineConfig,
    path: Path,
    world: World,
    facts: dict[str, Any],
    owned: list[RunDir],
    *,
    stop: StopRequest,
    watch: Watch,
) -> TrainState | None:
    """Take the run dir, prepare the data, build the engines, load the newest checkpoint. None where the run is finished.

    `owned` receives the run dir on rank 0, so that the caller can give it up however setup ends. `watch` begins as soon as the
    run dir is taken.
    Raises: ConfigError; Stopped where rank 0 is asked to stop before the data are prepared.
    """
    start = time.perf_counter()
    check_world(world, recipe, config, facts)
    expected = world.on_rank_zero(lambda: _take(path, recipe, world, owned, stop))
    if expected.step >= recipe.run.max_steps:
        if world.rank == 0:
            if not (path / CURVES).exists():  # it was killed after its last save
                plot_metrics(path)
            name = step_folder(path, expected.step).name
            print(f"{path} is finished ({name}); --set run.max_steps=N continues it, another --run-dir starts a new run")
        return None
    check_run_dir(world, path, world.on_rank_zero(lambda: owned[0].token))
    watch.start()
    modality = MODALITIES[recipe.modality]
    with watch.paused("prepare"):
        prepared = world.on_rank_zero(lambda: _prepare(recipe, path / "prepared", stop))
    watch.beat(expected.step, "data set")
    train_data, heldout = world.on_all_ranks(lambda: modality.open_data(recipe, prepared))
    check_same(world, {"the data's fingerprint": train_data.fingerprint})
    world.on_rank_zero(lambda: owned[0].accepted.update(check_same_data(path, recipe, train_data.fingerprint)))
    parallel = init_parallel(config.batch.tp_size, world.device.type)
    heldout_batches(recipe, heldout, config.batch.micro_batch_size, parallel)  # complains now rather than at the first evaluation
    loader = build_loader(recipe, train_data, config.batch, parallel.dp_rank, first_update=expected.update)
    torch.use_deterministic_algorithms(recipe.run.deterministic)
    watch.beat(expected.step, "engines")
    engines = build_engines(recipe, config, parallel)
    run_dir = owned[0] if owned else None
    watch.beat(expected.step, "load")
    manifest = load_newest(path, engines, world, partial(_report_damage, run_dir), alive=watch.alive)
    counters = manifest.counters if manifest else Counters()
    facts = facts | {"data_fingerprint": train_data.fingerprint, "deepspeed": config.deepspeed}
    saver = CheckpointSaver(path, engines, world, recipe.checkpoint, run_dir.check if run_dir else None)
    saving = Saving(saver, recipe, facts, counters.step, run_dir)
    data = TrainData(loader, heldout, BadItems(len(train_data), recipe.data.max_bad_fraction))
    spikes = SpikeStatistic(recipe.guard)
    spikes.load(manifest.facts["spikes"] if manifest else {})
    state = TrainState(recipe, config, world, engines, data, counters, saving, spikes, stop, watch)
    state.beat("logs")
    world.on_rank_zero(lambda: _open_logs(state, owned[0], facts, time.perf_counter() - start))
    return state


def _take(path: Path, recipe: Recipe, world: World, owned: list[RunDir], stop: StopRequest) -> Counters:
    """Own the run dir, where the recipe is that of the run; where the run then stands."""
    with stop.interruptible("preparation"):  # a lock of another machine is watched for half a minute
        owned.append(RunDir(path))
    owned[0].accepted = check_same_recipe(path, recipe)
    remove_leftovers(path)
    checkpoint = newest(path)
    counters = read_manifest(checkpoint).counters if checkpoint else Counters()
    if counters.step < recipe.run.max_steps:
        endings.forget(path / endings.FOLDER)  # before any watcher of this launch runs
        if (path / "config.json").exists():
            _write_roster(path, world)
    return counters


def _write_roster(path: Path, world: World) -> None:
    with suppress(OSError):  # a full disk: then nobody knows of a rank that leaves no word
        endings.write_roster(path / endings.FOLDER, world.hosts)


def _report_damage(run_dir: RunDir | None, folder: Path, reason: str) -> None:
    if run_dir:
        run_dir.event("fallback", step=step_of(folder), checkpoint=folder.name, reason=reason)
        run_dir.warn(f"checkpoint {folder.name} is not loaded, trying the one before it: {reason}")


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


def _prepare(recipe: Recipe, folder: Path, stop: StopRequest) -> Path:
    """The prepared data, found or made. Data that cannot fill one batch leave nothing behind."""
    modality, is_new = MODALITIES[recipe.modality], not folder.exists()
    with stop.interruptible("preparation"):
        prepared = modality.prepare(recipe, folder, progress=True, log=print)
    try:
        check_enough(modality.open_data(recipe, prepared)[0], recipe.run.global_batch_size)
    except ConfigError:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return prepared


def _open_logs(state: TrainState, run_dir: RunDir, facts: dict[str, Any], seconds: float) -> None:
    recipe, batch = state.recipe, state.config.batch
    content = {"recipe": recipe_to_dict(recipe), "deepspeed_config": state.config.path, **facts}
    topology = {"world_size": batch.world_size, "tp_size": batch.tp_size}
    run_dir.save_config(content | topology)
    _write_roster(run_dir.path, state.world)  # now there is a run
    lines, lost_steps, lost_seconds = run_dir.open_metrics(state.step)
    state.writer = MetricsWriter(lines, recipe, run_dir.path, state.engines.device, state.step)
    lost = {"lost_steps": lost_steps, "lost_seconds": lost_seconds, "last_seen": run_dir.last_seen}
    run_dir.event("resume" if state.step else "start", step=state.step, setup_seconds=seconds, **topology, **lost)
    if run_dir.taken_from:
        run_dir.event("takeover", step=state.step, owner=run_dir.taken_from)
    if run_dir.accepted:
        run_dir.event("change", step=state.step, fields=run_dir.accepted)
    for line in start_block(state, seconds):
        state.writer.say(line)


def start_block(state: TrainState, seconds: float) -> list[str]:
    """What, where, how big: the first lines on the terminal."""
    recipe, batch, run_dir = state.recipe, state.config.batch, state.run_dir
    assert run_dir is not None
    return [
        f"{recipe.name}: {num_parameters(recipe):,} parameters, {state.config.precision}, {state.config.path}",
        f"{batch.world_size} ranks = data-parallel {batch.dp_size} x tensor-parallel {batch.tp_size}; "
        f"update of {recipe.run.global_batch_size} samples = {batch.dp_size} x micro {batch.micro_batch_size} x accumulation "
        f"{batch.accumulation_steps}",
        f"run dir {run_dir.path}, {'resumed at' if state.step else 'from'} step {state.step} to {recipe.run.max_steps}; "
        f"ready in {seconds:.1f} s",
        *([f"taken over from {run_dir.taken_from}, which has ended without a word"] if run_dir.taken_from else []),
        *([f"changed: {', '.join(f'{key} {old} -> {new}' for key, (old, new) in run_dir.accepted.items())}"] if run_dir.accepted else []),
    ]
