"""The interface between an objective (a loss and its networks) and the loop, checkpoints and reports. data2vec.py implements it;
docs/architecture.md describes which parts of training use it.

Every rank calls every method equally often and in the same order. count(), check() and nothing_counted() are no collectives and run no
module. A skipped update calls neither the engine's step nor after_step().
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from model.dropout import DropoutStream
from model.parallel import Parallel
from recipes.config import Recipe
from recipes.engine.build import Engine, EngineBuilder
from recipes.objective_config import ObjectiveConfig

Beat = Callable[[int], Any]
"""Heartbeat of an evaluation: called with the number of each micro-batch."""


@dataclass(frozen=True)
class Outcome:
    """Result of one micro-batch: the sum of its loss, over masked positions in data2vec. Subclasses add what their metrics need."""

    loss: Tensor


class Column(NamedTuple):
    """A metric in the line that a run prints: its key in metrics.jsonl, the label before its value, and its format."""

    key: str
    label: str
    format: str


class Display(NamedTuple):
    """What a run prints and plots: metrics of the objective, and the command to try next. `panels`: title of each plot -> the metrics in
    it; at most four plots. `next_command`: what the last line suggests, with {run_dir} for the run dir; "" for none."""

    every_step: tuple[Column, ...]
    at_evaluations: tuple[Column, ...]
    panels: Mapping[str, tuple[str, ...]]
    next_command: str = ""


class Statistics(Protocol):
    """Computes the metrics of one update from its micro-batches on all ranks."""

    def add(self, outcome: Any) -> None:
        """Add the result of one micro-batch."""

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Return the metrics of the update over all ranks of `group`, including `loss`. A collective. `total`: what Objective.count()
        returns, summed over the update's micro-batches on all ranks; `tokens`: all positions of the update."""


class StudentOnly:
    """Base of the objectives whose checkpoints hold nothing but the student: no weights follow it, and no values are stored."""

    def after_step(self, step: int) -> dict[str, float]:
        """Do nothing, and return no metrics."""
        return {}

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Return {}: a checkpoint has only the network that is trained."""
        return {}

    def after_load(self) -> None:
        """Do nothing: nothing follows the network."""

    def restart(self) -> None:
        """Do nothing: nothing follows the network."""

    def state(self) -> dict[str, Any]:
        """Return {}: a checkpoint needs no further values."""
        return {}

    def load_state(self, values: dict[str, Any]) -> None:
        """Do nothing: a checkpoint holds no further values."""


class Objective(Protocol):
    """A loss that is minimised, with the networks that compute it on their DeepSpeed engines."""

    Config: ClassVar[type[ObjectiveConfig]]
    """The class of the objective's section in the recipe."""
    display: ClassVar[Display]
    student: Engine
    """The engine of the network that the optimizer trains."""
    parallel: Parallel
    stream: DropoutStream
    """Random numbers of the student's dropout. The training loop sets their update and micro-batch."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build the networks with `builder`. A collective."""

    def count(self, batch: Batch) -> int:
        """Return how many items of the batch the loss counts, such as masked positions. The sum over all micro-batches of an update is
        the number that its summed loss is divided by."""

    def forward(self, batch: Batch, total: int) -> Outcome:
        """Compute the summed loss of one micro-batch, which is on this rank's device. `total` is the number by which the loss of the
        whole update will be divided."""

    def after_step(self, step: int) -> dict[str, float]:
        """After the optimizer's step number `step` (from 1), update what follows the student, such as an average of its weights. Return
        metrics."""

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors that a checkpoint holds beside the student's own: kind -> name of a student parameter -> this rank's
        float32 shard, partitioned like that parameter. The tensors are in use, no copies."""

    def after_load(self) -> None:
        """Make the forward passes use what a checkpoint has written into the shards. Called after all shards were written."""

    def restart(self) -> None:
        """Reset all that follows the student, such as an average of its weights. Called after the student's weights were replaced."""

    def state(self) -> dict[str, Any]:
        """Return small values that the checkpoint stores as JSON; load_state() gets them back."""

    def load_state(self, values: dict[str, Any]) -> None:
        """Restore the values that state() returned; {} if the checkpoint has none. Called after after_load()."""

    def statistics(self) -> Statistics:
        """Return an object that collects the metrics of one update, still empty."""

    def evaluate(self, batches: Iterable[Batch], beat: Beat) -> dict[str, float]:
        """Return the metrics of held-out micro-batches, which are on this rank's device; {} if there are none. `beat` is called with the
        index of each micro-batch, as a sign of life. A collective. The student is in training mode afterwards."""

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Check the metrics of a logged step. Raises: TrainingBroken if they show that the run no longer learns."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return the error text for an update in which count() is 0 on all ranks: fact, numbers, remedy. `samples`: samples of the
        update."""
