"""One rank of a small run for tests of checkpoints: a real objective, data and updates, which a test saves and loads without a command.
Import it in ranks only, since it imports DeepSpeed."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel import init_parallel
from recipes.checkpoint.layout import Counters, Manifest, step_folder
from recipes.checkpoint.live import shards_of
from recipes.checkpoint.restore import finish_load, load_checkpoint, load_newest
from recipes.checkpoint.save import CheckpointSaver, SaveOutcome
from recipes.cluster.world import World, join_world
from recipes.config import CheckpointConfig, Recipe
from recipes.data.order import EpochOffset
from recipes.engine import shards
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from recipes.train.agreement import Agreement
from recipes.train.bad_items import BadItems
from recipes.train.loop import train_step
from recipes.train.preempt import StopRequest
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
from recipes.train.startup import build_loader
from recipes.train.state import TrainData, TrainState
from recipes.watch.watch import Watch
from tests.recipes.checkpoint.topology import KINDS, Topology

KEEP = CheckpointConfig(keep_last=1000)
Curve = list[tuple[float, float]]
"""(loss, gradient norm) of each update."""


class LiveRun:
    """This rank's part of a small training run in the folder `run_dir`. Every rank calls every method."""

    def __init__(self, recipe: Recipe, topology: Topology, prepared: Path, run_dir: Path, zero: dict[str, Any] | None = None) -> None:
        self.run_dir, self.config = run_dir, topology.config(recipe, zero)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.world: World = join_world()
        parallel = init_parallel(topology.tp_size, "cpu", topology.num_replicas)
        self._train_data, heldout = MODALITIES[recipe.modality].open_data(recipe, prepared)
        objective = build_objective(recipe, self.config, parallel)
        self.saver = CheckpointSaver(run_dir, objective, self.world, KEEP)
        data = TrainData(self._open_loader(recipe, parallel.dp_rank, 0), heldout, BadItems(len(self._train_data), 0.0))
        saving = Saving(self.saver, recipe, {}, 0, None)
        self.objective = objective
        self.state = TrainState(
            recipe=recipe,
            config=self.config,
            world=self.world,
            objective=objective,
            data=data,
            counters=Counters(),
            saving=saving,
            spikes=SpikeStatistic(recipe.guard),
            stop=StopRequest(),
            watch=Watch(run_dir / "watch", self.world.rank, self.world.hosts, 0.0),
        )

    def _open_loader(self, recipe: Recipe, dp_rank: int, update: int) -> Any:
        first = EpochOffset.of_constant_batch(update, recipe.run.global_batch_size, len(self._train_data))
        return build_loader(recipe, self._train_data, self.config.batch, dp_rank, first=first)

    def train(self, updates: int) -> Curve:
        """Do that many updates with the training loop's train_step, and return loss and gradient norm of each."""
        curve = []
        self.state.agreement = Agreement()  # counters may have changed since, so an exchange that was begun is dropped
        for _ in range(updates):
            metrics = train_step(self.state, True)
            assert isinstance(metrics, dict), f"update {self.state.counters.update - 1} was skipped: {metrics}"
            curve.append((metrics["loss"], metrics["grad_norm"]))
        return curve

    def save(self, run_dir: Path | None = None) -> Path:
        """Save the current state in this or another run dir, and return the checkpoint's folder."""
        if run_dir:
            run_dir.mkdir(parents=True, exist_ok=True)
        saver = CheckpointSaver(run_dir, self.objective, self.world, KEEP) if run_dir else self.saver
        saver.begin(self.state.counters, self.state.small_states())
        outcome: SaveOutcome = saver.finish()
        assert outcome.problem is None, outcome.problem
        return step_folder(run_dir or self.run_dir, outcome.step)

    def load(self, folder: Path) -> None:
        """Load the checkpoint in `folder`. Training continues with the samples that follow it."""
        manifest = load_checkpoint(folder, self.objective)
        finish_load(self.objective, manifest)
        self._follow(manifest)

    def skip(self, updates: int) -> None:
        """Count that many updates as skipped, as the guard does: their samples are used up, the weights do not change."""
        counters = self.state.counters
        self.state.counters = replace(counters, update=counters.update + updates)

    def load_newest(self, reported: list[tuple[str, str]], alive: Callable[[], Any] = lambda: None) -> Manifest | None:
        """Load the newest checkpoint of the run dir that can be read, and return its manifest; None if there is none. Unreadable
        checkpoints are added to `reported` as (folder name, reason)."""

        def report(folder: Path, reason: str) -> None:
            reported.append((folder.name, reason))

        manifest = load_newest(self.run_dir, self.objective, self.world, report, alive=alive)
        if manifest:
            self._follow(manifest)
        return manifest

    def _follow(self, manifest: Manifest) -> None:
        """Set the counters to those of a checkpoint. Updates load their samples by number, so the loader is not changed."""
        self.state.counters = manifest.counters

    def local(self) -> dict[str, Tensor]:
        """Return this rank's shards without padding: KIND/PARAMETER -> view of the tensor in use."""
        found, own_kinds = {}, self.objective.shards()
        for name, parameter in shards.named_parameters(self.objective.student):
            count = shards.shard_range(parameter)[1]
            for kind, shard in shards_of(name, parameter, own_kinds):
                found[f"{kind}/{name}"] = shard[:count].detach()
        return found

    def whole(self) -> dict[str, Tensor]:
        """Return the whole tensors: KIND/PARAMETER -> float32. They are gathered by collectives, not by the code that writes
        checkpoints."""
        parameters, found = dict(shards.named_parameters(self.objective.student)), {}
        held = {
            "master": {n: shards.master_shard(p) for n, p in parameters.items()},
            **{moment: {n: shards.moment_shard(p, moment) for n, p in parameters.items()} for moment in shards.MOMENTS},
            "shadow": self.objective.shadow.shadows,
        }
        assert set(held) == set(KINDS), held.keys()
        for kind, of_kind in held.items():
            for name, shard in of_kind.items():
                found[f"{kind}/{name}"] = shards.gather_full(parameters[name], shard.detach().clone(), self.objective.parallel)
        return found

    def digest(self) -> str:
        """Return a hash over all ranks' shards. States of the same topology are bitwise equal if their hashes are."""
        digest = hashlib.sha256()
        for name, shard in self.local().items():
            digest.update(name.encode() + shard.contiguous().numpy().tobytes())
        digests: list[str | None] = [None] * self.world.size
        dist.all_gather_object(digests, digest.hexdigest(), group=self.world.control)
        return hashlib.sha256(repr(digests).encode()).hexdigest()

    def stale(self) -> list[str]:
        """Return the parameters whose compute weights are not the loaded state rounded to their dtype, as `student NAME` or `teacher
        NAME`; [] if all are right."""
        stale, teacher = [], dict(shards.named_parameters(self.objective.teacher))
        for name, parameter in shards.named_parameters(self.objective.student):
            count = shards.shard_range(parameter)[1]
            pairs = [("student", shards.compute_shard(parameter), shards.master_shard(parameter))]
            if name in self.objective.shadow.shadows:
                pairs.append(("teacher", shards.compute_shard(teacher[name]), self.objective.shadow.shadows[name]))
            stale += [f"{module} {name}" for module, used, kept in pairs if not torch.equal(used[:count], kept[:count].to(used.dtype))]
        return stale

    def optimizer_steps(self) -> set[float]:
        """Return the step counts of Adam's bias correction over all parameter groups. They should be one number."""
        return {float(state["step"]) for state in self.objective.student.optimizer.optimizer.state.values()}
