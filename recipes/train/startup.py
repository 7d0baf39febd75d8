"""Start-up of a run: run dir, data, engines, newest checkpoint, logs, in this order. Every rank runs every step."""

import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from model.parallel import Parallel, init_parallel
from recipes.check import check_optim, check_profile, how_to_continue
from recipes.checkpoint.layout import Counters, Manifest, name_best, newest, read_manifest, step_folder, step_of
from recipes.checkpoint.restore import load_newest, load_weights
from recipes.checkpoint.retention import remove_leftovers
from recipes.checkpoint.save import CheckpointSaver
from recipes.cluster.world import World
from recipes.cluster.world_check import check_run_dir, check_same, check_world
from recipes.config import Recipe
from recipes.data.loader import Dataset, UpdateLoader, check_enough
from recipes.data.order import EpochOffset
from recipes.data.shards import note_on_short
from recipes.ds_config import EngineConfig
from recipes.engine.cpu_adam import is_compiled
from recipes.modalities.base import DataSource
from recipes.modalities.registry import source_of
from recipes.objectives.registry import build_objective, objective_class
from recipes.run_dir.run_dir import RunDir
from recipes.settings import recipe_to_dict
from recipes.train.bad_items import BadItems
from recipes.train.best import BestEvaluation
from recipes.train.from_data import filled_in, recorded, stored_values, with_stored_values
from recipes.train.kernels import check_precision, choose_kernels, precision_line, products_of_run
from recipes.train.loading import build_loader, cores_of_rank, kept_shuffling
from recipes.train.metrics import MetricsWriter
from recipes.train.micro_batch import agreed_micro_batch
from recipes.train.mirror import open_mirror
from recipes.train.origin import Origin, begun_start, find_origin
from recipes.train.plot import CURVES, plot_metrics
from recipes.train.preempt import StopRequest
from recipes.train.probe import Probe, ProbePlace, ProbeSource
from recipes.train.profile import StepProfiler
from recipes.train.resume import check_same_data, check_same_path, check_same_recipe, execution_changes, read_started_run
from recipes.train.run_data import RunData
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
from recipes.train.start_block import model_lines, origin_line, run_dir_lines
from recipes.train.state import TrainData, TrainState
from recipes.train.step_lines import warn
from recipes.watch import endings
from recipes.watch.watch import Watch


@dataclass
class StartUp:
    """The start-up of one launch: its inputs, and what its steps have built so far."""

    recipe: Recipe
    config: EngineConfig
    path: Path
    """The run dir."""
    launch_info: dict[str, Any]
    """Versions and command line, for config.json and every manifest."""
    world: World
    stop: StopRequest
    watch: Watch
    stack: ExitStack
    """Releases what the start has acquired (run dir, loader) when it closes, also after an error."""
    run_dir: RunDir | None = None
    """Set on rank 0, once the run dir is owned."""
    run_data: RunData | None = None
    """Set on rank 0, when the preparation starts."""
    origin: Origin | None = None
    """The checkpoint with whose weights the run began or begins; None for random weights. Set once the run dir is owned."""
    probes: ProbeSource | None = None
    """Opens the probe that runs while the network is trained."""
    prepared: Path | None = None
    """The folder of the prepared data. Set once they are open."""
    began: float = field(default_factory=time.perf_counter)

    @cached_property
    def source(self) -> DataSource:
        """The object that prepares and opens the recipe's data."""
        return source_of(self.recipe)

    def run(self) -> TrainState | None:
        """Start the run up and return its state; None if the run has reached its last step already.

        Raises: ConfigError; Stopped if rank 0 is asked to stop before the data are prepared.
        """
        recipe, world = self.recipe, self.world
        self.config = agreed_micro_batch(world, self.path, recipe, self.config)
        self.config = replace(self.config, gathers_once=all(world.gather(self.config.gathers_once)))
        check_world(world, recipe, self.config, self.launch_info)
        world.on_all_ranks(lambda: check_precision(self.config))
        expected = world.on_rank_zero(self._acquire_run_dir)
        self.recipe = recipe = world.on_rank_zero(lambda: self.recipe)
        step = expected.counters.step
        if step >= recipe.run.max_steps or BestEvaluation.of(expected.metadata).is_exhausted(recipe.eval):
            world.on_rank_zero(lambda: self._print_finished(step))
            return None
        check_run_dir(world, self.path, world.on_rank_zero(lambda: self._require_run_dir().token))
        self.origin, start = world.on_rank_zero(lambda: (find_origin(self.path, recipe), begun_start(self.path, recipe)))
        self.recipe = recipe = replace(recipe, start=start)
        self.watch.start()
        train_data, heldout, run_info = self._open_data(step)
        recipe = self.recipe
        parallel = init_parallel(self.config.batch.tp_size, world.device.type, self.config.batch.num_replicas)
        probe = self._open_probe(parallel)
        loader = self._open_loader(train_data, parallel, expected)
        self._print_start_lines(step)
        removed = world.on_rank_zero(lambda: self._require_run_data().removed())
        data = TrainData(loader, heldout, BadItems(len(train_data), recipe.data.max_bad_fraction, removed))
        self.config = config = replace(self.config, products=products_of_run(self.path, recipe, world))
        chosen: dict[str, Any] = {"products": config.products, "data_workers": loader.num_workers, "shuffling": loader.shuffling}
        chosen |= {"recomputes_activations": config.recomputes_activations, "gathers_once": config.gathers_once}
        run_info |= self.launch_info | {"deepspeed": config.deepspeed} | chosen | self._start_from()
        state = self._build(parallel, data, run_info, expected)
        state.probe = probe
        state.profiler = StepProfiler(recipe.run.profiled, self.path, world.rank)
        self.stack.callback(state.profiler.close)
        state.beat("logs")
        world.on_rank_zero(lambda: self._open_logs(state, run_info))
        return state

    def _start_from(self) -> dict[str, Any]:
        return {"start_from": asdict(self.origin)} if self.origin else {}

    def _require_run_dir(self) -> RunDir:
        assert self.run_dir is not None
        return self.run_dir

    def _acquire_run_dir(self) -> Manifest:
        """Lock the run dir and check that the recipe is that of its run, with the settings that the run has taken from its data. Return
        the manifest of the newest checkpoint without its list of tensors and files; an empty manifest if there is none. Called on rank 0
        only."""
        with self.stop.interruptible("preparation"):  # waits half a minute if the lock is of another machine
            self.run_dir = RunDir(self.path, say=warn)
            self.stack.callback(self.run_dir.release)
        self.recipe = with_stored_values(self.path, self.recipe)
        self.run_dir.accepted = check_same_recipe(self.path, self.recipe)
        remove_leftovers(self.path)
        checkpoint = newest(self.path)
        manifest = replace(read_manifest(checkpoint), parameters={}, files=()) if checkpoint else Manifest(Counters(), 1, 1, {}, (), {})
        if manifest.counters.step < self.recipe.run.max_steps:
            endings.remove_folder(self.path / endings.FOLDER)  # before any watcher of this launch runs
            if (self.path / "config.json").exists():
                self._write_roster()
        return manifest

    def _print_finished(self, step: int) -> None:
        check_same_path(self.path, self.recipe)
        if not (self.path / CURVES).exists():  # the run was killed after its last save
            plot_metrics(self.path, objective_class(self.recipe.objective.kind).display.panels)
        RunData(self._require_run_dir(), self.recipe, self.source).copy_kept_to_prepared()
        name = step_folder(self.path, step).name
        print(f"{self.path} is finished ({name}); {how_to_continue(self.recipe, step)}; another --run-dir starts a new run")

    def _write_roster(self) -> None:
        with suppress(OSError):  # a full disk: then a rank that ends without a record is not noticed
            endings.write_roster(self.path / endings.FOLDER, self.world.hosts)

    def _open_data(self, step: int) -> tuple[Dataset, Dataset, dict[str, Any]]:
        """Prepare the data if needed. Return the training data, the held-out data, and the hashes that identify both, for config.json.

        `step`: the step at which this launch begins. Raises: ConfigError if the data differ between ranks or from those of the run.
        """
        recipe, world = self.recipe, self.world
        with self.watch.paused("prepare"):
            self.prepared = prepared = world.on_rank_zero(self._prepare)
        self.watch.beat(step, "data set")
        values = world.on_rank_zero(lambda: stored_values(self.path) or dict(self.source.values(recipe, prepared)))
        self.recipe = recipe = filled_in(recipe, values)
        check_optim(recipe)
        check_profile(recipe.run)
        train_data, heldout = world.on_all_ranks(lambda: self.source.open_data(recipe, prepared))
        check_same(world, {"the data's fingerprint": train_data.fingerprint})
        identity = world.on_rank_zero(lambda: self._require_run_data().identity(train_data.fingerprint))
        world.on_rank_zero(lambda: self._require_run_dir().accepted.update(check_same_data(self.path, recipe, identity)))
        return train_data, heldout, asdict(identity) | recorded(values)

    def _open_probe(self, parallel: Parallel) -> Probe | None:
        """Read the data of the probe; None if the recipe has none. Raises: ConfigError."""
        if not (self.probes and self.recipe.eval.probe_steps):
            return None
        assert self.prepared is not None
        with self.watch.paused("probe"):
            return self.probes.open(self.recipe, ProbePlace(self.world, parallel, self.prepared, self.path))

    def _require_run_data(self) -> RunData:
        assert self.run_data is not None
        return self.run_data

    def _prepare(self) -> Path:
        """Prepare the data if needed, and return their folder. Called on rank 0 only."""
        recipe, open_data = self.recipe, self.source.open_data
        waiting: dict[str, Any] = {"num_ranks": self.world.size, "command": self.launch_info.get("command", ())}
        self.run_data = RunData(self._require_run_dir(), recipe, self.source, self.origin, **waiting)
        with self.stop.interruptible("preparation"):
            return self.run_data.prepare(
                lambda prepared: check_enough(open_data(recipe, prepared)[0], recipe.run.global_batch_size, note_on_short(prepared))
            )

    def _print_start_lines(self, step: int) -> None:
        """Print, on rank 0, model, device and batch, and which of the next steps take long: compiling, or loading the checkpoint of
        `step` (0: none)."""
        lines = model_lines(self.recipe, self.config, self.world.device)
        if self.config.offloads_optimizer and not is_compiled():
            lines.append("compiling DeepSpeed's CPU optimizer: a minute, the first time on this kind of machine")
        if step:
            lines.append(f"loading the checkpoint of step {step}")
        else:
            origin = origin_line(self.origin, self.recipe) if self.origin else None
            lines += filter(None, (origin, precision_line(self.config, self.world.device)))
        for line in lines if self.world.rank == 0 else ():
            print(line, flush=True)

    def _open_loader(self, train_data: Dataset, parallel: Parallel, manifest: Manifest) -> UpdateLoader:
        """Return this rank's loader. It starts with the update that follows the checkpoint of `manifest`."""
        place, update = manifest.metadata.get("place"), manifest.counters.update
        size = manifest.metadata.get("recipe", {}).get("run", {}).get("global_batch_size", self.recipe.run.global_batch_size)
        first = EpochOffset(update, **place) if place else EpochOffset.of_constant_batch(update, size, len(train_data))
        here = self.world.hosts.count(self.world.hosts[self.world.rank])
        cores, device = cores_of_rank(self.world), self.world.device
        share: dict[str, Any] = {"ranks_on_node": here, "cores": cores, "device": device, "shuffling": kept_shuffling(manifest)}
        loader = build_loader(self.recipe, train_data, self.config.batch, parallel.dp_rank, first=first, **share)
        self.stack.callback(loader.close)
        return loader

    def _build(self, parallel: Parallel, data: TrainData, run_info: dict[str, Any], expected: Manifest) -> TrainState:
        """Build the engines, load the newest undamaged checkpoint into them, and return the state of the training.

        `run_info`: what every manifest gets beside the recipe. `expected`: the manifest of the newest checkpoint, at which the loader in
        `data` starts. If that checkpoint is damaged and an older one is loaded, the loader is opened again at the place of the older one.
        """
        step = expected.counters.step
        recipe, world, run_dir = self.recipe, self.world, self.run_dir
        choose_kernels(recipe.run.deterministic)
        self.watch.beat(step, "engines")
        objective = build_objective(recipe, self.config, parallel, alive=self.watch.alive)
        self.watch.beat(step, "load")
        manifest = load_newest(self.path, objective, world, self._report_damage, alive=self.watch.alive)
        if manifest is None and self.origin:
            world.on_all_ranks(self.origin.check_unchanged)
            prefix = recipe.objective.inherits
            load_weights(Path(self.origin.path), objective, recipe.start, world, alive=self.watch.alive, prefix=prefix)
        counters = manifest.counters if manifest else Counters()
        if manifest and counters != expected.counters:  # the newest checkpoint is damaged, an older one was loaded
            data.loader.close()
            data = data._replace(loader=self._open_loader(data.loader.dataset, parallel, manifest))
        best = BestEvaluation.of(manifest.metadata if manifest else {})
        saver = CheckpointSaver(self.path, objective, world, recipe.checkpoint, run_dir.check if run_dir else None)
        saving, spikes = Saving(saver, recipe, run_info, counters.step, run_dir, best=best), SpikeStatistic(recipe.guard)
        if run_dir and best.value is not None:
            name_best(self.path, best.step)  # a kill can have come between a checkpoint and its name
        if manifest:
            spikes.load(manifest.metadata["spikes"])
            objective.load_state(manifest.metadata.get("objective", {}))
        return TrainState(recipe, self.config, world, objective, data, counters, saving, spikes, self.stop, self.watch, best=best)

    def _report_damage(self, folder: Path, reason: str) -> None:
        if self.run_dir:
            self.run_dir.event("fallback", step=step_of(folder), checkpoint=folder.name, reason=reason)
            self.run_dir.warn(f"checkpoint {folder.name} is not loaded, trying the one before it: {reason}")

    def _open_logs(self, state: TrainState, run_info: dict[str, Any]) -> None:
        recipe, batch, run_dir = self.recipe, self.config.batch, self._require_run_dir()
        seconds = time.perf_counter() - self.began
        topology = {"world_size": batch.world_size, "tp_size": batch.tp_size, "num_replicas": batch.num_replicas}
        content = {"recipe": recipe_to_dict(recipe), "deepspeed_config": self.config.path, **run_info, **topology}
        before = read_started_run(self.path)
        content |= {"imported": before.content["imported"]} if before and "imported" in before.content else {}
        run_dir.accepted |= execution_changes(before.content, content) if before else {}
        run_dir.save_config(content)
        self._require_run_data().keep()
        self._write_roster()  # config.json exists now, so this is a run
        lines, lost_steps, lost_seconds = run_dir.open_metrics(state.step)
        mirror = open_mirror(recipe.run.wandb, run_dir.path, content)
        display = state.objective.display
        state.writer = MetricsWriter(lines, recipe, display, mirror=mirror, device=state.device, first_step=state.step)
        lost = {"lost_steps": lost_steps, "lost_seconds": lost_seconds, "last_seen": run_dir.last_seen}
        begun = {} if state.step else self._start_from()
        run_dir.event("resume" if state.step else "start", step=state.step, setup_seconds=seconds, **topology, **lost, **begun)
        if run_dir.taken_from:
            run_dir.event("takeover", step=state.step, owner=run_dir.taken_from)
        if run_dir.accepted:
            run_dir.event("change", step=state.step, fields=run_dir.accepted)
        self.stack.callback(state.writer.terminal.close)  # the error that ends the run is printed below the bar
        for line in run_dir_lines(recipe, run_dir, state.step, seconds):
            state.writer.terminal.say(line)
