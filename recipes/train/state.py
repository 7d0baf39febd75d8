"""Everything one run holds while it trains. How it comes to be: recipes/train/startup.py."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from recipes.checkpoint.layout import Counters
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.data.loader import Dataset, UpdateLoader
from recipes.ds_config import EngineConfig
from recipes.engine import shards
from recipes.objectives.base import Objective
from recipes.run_dir.run_dir import RunDir
from recipes.train.bad_items import BadItems
from recipes.train.metrics import Interval, MetricsWriter
from recipes.train.preempt import StopRequest
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
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
    objective: Objective
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
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.objective.student.device)

    @property
    def run_dir(self) -> RunDir | None:
        """On rank 0, the run dir."""
        return self.saving.run_dir

    def beat(self, phase: str, micro_batch: int = 0) -> None:
        """This rank has come to `phase`. Every rank calls it at the same places."""
        self.watch.beat(self.step, phase, micro_batch)
        if self.writer:
            self.writer.terminal.beat(self.step, phase, micro_batch)

    def small_states(self) -> dict[str, Any]:
        """What a checkpoint holds beside shards and counters."""
        own = self.objective.state()
        states = {"loss_scaler": shards.loss_scaler_state(self.objective.student), "spikes": self.spikes.state()}
        _, epoch, offset = self.data.loader.place(self.counters.update)
        return states | {"place": {"epoch": epoch, "offset": offset}} | ({"objective": own} if own else {})
