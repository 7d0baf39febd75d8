"""The state of a running training. recipes/train/startup.py builds it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from recipes.checkpoint.layout import Counters
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.data.device_feed import DeviceFeed
from recipes.data.loader import Dataset, UpdateLoader
from recipes.ds_config import EngineConfig
from recipes.engine import shards
from recipes.engine.replicated import DriftCheck
from recipes.objectives.base import Objective
from recipes.run_dir.run_dir import RunDir
from recipes.train.agreement import Agreement
from recipes.train.bad_items import BadItems
from recipes.train.best import BestEvaluation
from recipes.train.metrics import Interval, MetricsWriter
from recipes.train.preempt import StopRequest
from recipes.train.probe import Probe
from recipes.train.profile import StepProfiler
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
from recipes.watch.watch import Watch


class TrainData(NamedTuple):
    """The data that the run reads: the loader of updates, the held-out samples, and the items that could not be decoded."""

    loader: UpdateLoader
    heldout: Dataset
    bad_items: BadItems


@dataclass
class TrainState:
    """Everything that an update reads and changes."""

    recipe: Recipe
    config: EngineConfig
    world: World
    objective: Objective
    data: TrainData
    counters: Counters
    saving: Saving
    spikes: SpikeStatistic
    stop: StopRequest
    watch: Watch
    best: BestEvaluation = field(default_factory=BestEvaluation)
    writer: MetricsWriter | None = None  # on rank 0
    probe: Probe | None = None
    profiler: StepProfiler = field(default_factory=StepProfiler)
    interval: Interval = field(default_factory=Interval)

    @property
    def step(self) -> int:
        """Optimizer updates applied so far."""
        return self.counters.step

    @property
    def is_done(self) -> bool:
        """True if the run has reached run.max_steps, or ends earlier because its evaluations do not get better."""
        return self.step >= self.recipe.run.max_steps or self.best.is_exhausted(self.recipe.eval)

    @property
    def device(self) -> torch.device:
        """The device of the student network; batches are moved to it."""
        return torch.device(self.objective.student.device)

    @cached_property
    def feed(self) -> DeviceFeed:
        """Brings the micro-batches of the updates to the device."""
        return DeviceFeed(self.device)

    @cached_property
    def agreement(self) -> Agreement:
        """The exchange between all ranks for each update. Its first use is a collective."""
        return Agreement()

    @cached_property
    def drift_check(self) -> DriftCheck:
        """Compares the weights that tensor-parallel ranks hold whole."""
        return DriftCheck(self.objective.student, self.objective.parallel)

    @property
    def run_dir(self) -> RunDir | None:
        """The run dir on rank 0; None on other ranks."""
        return self.saving.run_dir

    def beat(self, phase: str, micro_batch: int = 0) -> None:
        """Record a heartbeat: this rank has reached `phase`. Every rank calls it at the same places."""
        self.watch.beat(self.step, phase, micro_batch)
        if self.writer:
            self.writer.terminal.beat(self.step, phase, micro_batch)

    def small_states(self) -> dict[str, Any]:
        """Return the small parts of a checkpoint, ready for JSON: loss scaler, spike statistic, place in the data, and the objective's own
        state."""
        own = self.objective.state()
        states = {"loss_scaler": shards.loss_scaler_state(self.objective.student), "spikes": self.spikes.state()}
        _, epoch, offset = self.data.loader.start_of(self.counters.update)
        states |= self.best.state(self.step)
        return states | {"place": {"epoch": epoch, "offset": offset}} | ({"objective": own} if own else {})
