"""The interface between an objective and the loop, checkpoints and reports. data2vec.py implements it; docs/architecture.md describes
which parts of training use it.

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
from recipes.config import ObjectiveConfig, Recipe
from recipes.engine.build import Engine, EngineBuilder

Beat = Callable[[int], Any]
"""Heartbeat of an evaluation: called with the number of each micro-batch."""


@dataclass(frozen=True)
class Outcome:
    """Result of one micro-batch: the loss, summed over what count() counts. Subclasses add what their statistics need."""

    loss: Tensor


class Column(NamedTuple):
    """A metric on the step line: its key in metrics.jsonl, the label before its value, and its format."""

    key: str
    label: str
    format: str


class Display(NamedTuple):
    """How the metrics of an objective are shown. `panels`: title of each plot -> the metrics in it; at most four plots."""

    every_step: tuple[Column, ...]
    at_evaluations: tuple[Column, ...]
    panels: Mapping[str, tuple[str, ...]]


class Statistics(Protocol):
    """Sums over the micro-batches of an update that is logged."""

    def add(self, outcome: Any) -> None:
        """Add one micro-batch."""

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Return the metrics over all ranks of `group`, including `loss`. A collective. `total`: count of the whole update, `tokens`:
        its positions."""


class Objective(Protocol):
    """The loss that is minimised, with its networks on their engines."""

    Config: ClassVar[type[ObjectiveConfig]]
    """The class of the objective's section in the recipe."""
    display: ClassVar[Display]
    student: Engine
    """The engine whose optimizer is stepped."""
    parallel: Parallel
    stream: DropoutStream
    """The student's counter-based random stream. The loop sets its update and micro-batch."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build the networks. A collective."""

    def count(self, batch: Batch) -> int:
        """Return the number that the loss is divided by: masked positions, labels, characters."""

    def forward(self, batch: Batch, total: int) -> Outcome:
        """Compute one micro-batch, which is on this rank's device. `total`: count of the whole update."""

    def after_step(self, step: int) -> dict[str, float]:
        """Update what follows the student, such as an average of its weights, after the optimizer's step number `step` (from 1).
        Returns metrics."""

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Return the kinds of tensor that a checkpoint holds beside the student's own: kind -> name of a student parameter -> live
        float32 shard, partitioned like that parameter."""

    def after_load(self) -> None:
        """Call after all shards were written from a checkpoint. Makes the forward passes use them."""

    def restart(self) -> None:
        """Call after the student's weights were replaced from another source. Resets everything that follows them."""

    def state(self) -> dict[str, Any]:
        """Return small values for the checkpoint, ready for JSON."""

    def load_state(self, values: dict[str, Any]) -> None:
        """Restore state(); called after after_load(). `values` is {} if the checkpoint has none."""

    def statistics(self) -> Statistics:
        """Return empty statistics for one update."""

    def evaluate(self, batches: Iterable[Batch], beat: Beat) -> dict[str, float]:
        """Return the metrics of held-out micro-batches on this rank's device; {} if there are none. A collective. The student is in
        training mode afterwards."""

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Raises: TrainingBroken if the metrics of a logged step show that the run no longer learns."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return the error text for an update whose count is 0: fact, numbers, remedy."""
