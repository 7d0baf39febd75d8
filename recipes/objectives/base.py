"""The seam: what the loop, checkpoints and reports know of an objective. data2vec.py is the first one; docs/architecture.md says what
comes through here and what does not.

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
"""Told the number of each micro-batch of an evaluation: a sign of life."""


@dataclass(frozen=True)
class Outcome:
    """What one micro-batch gave: the loss as a sum over what count() counts, and whatever else the statistics need."""

    loss: Tensor


class Column(NamedTuple):
    """A metric on the step line: its key in metrics.jsonl, what stands before it, and its format."""

    key: str
    label: str
    format: str


class Display(NamedTuple):
    """How the metrics of an objective are shown. `panels`: title of each picture -> the metrics in it, four at most."""

    every_step: tuple[Column, ...]
    at_evaluations: tuple[Column, ...]
    panels: Mapping[str, tuple[str, ...]]


class Statistics(Protocol):
    """Sums over the micro-batches of an update that is logged."""

    def add(self, outcome: Any) -> None:
        """Take in one micro-batch."""

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """The metrics over all ranks of `group`, `loss` among them; a collective. `total` and `tokens`: count and positions of the
        whole update."""


class Objective(Protocol):
    """What is minimised, with its networks on their engines."""

    Config: ClassVar[type[ObjectiveConfig]]
    """Its section of the recipe."""
    display: ClassVar[Display]
    student: Engine
    """The engine that is stepped."""
    parallel: Parallel
    stream: DropoutStream
    """The student's counted randomness, whose update and micro-batch the loop sets."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build the networks. A collective."""

    def count(self, batch: Batch) -> int:
        """What the loss divides by: masked positions, labels, characters."""

    def forward(self, batch: Batch, total: int) -> Outcome:
        """One micro-batch on this rank's device; `total` is the count of the whole update."""

    def after_step(self, step: int) -> dict[str, float]:
        """After the optimizer's step number `step` (from 1): what follows the student, such as an average of its weights. Returns
        metrics."""

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Kinds of tensor in a checkpoint beside the student's own: kind -> parameter of the student -> its live float32 shard, cut as
        that parameter is."""

    def after_load(self) -> None:
        """All shards were written from a checkpoint: make the forwards see them."""

    def restart(self) -> None:
        """The student's weights were replaced from elsewhere: begin everything that follows them anew."""

    def state(self) -> dict[str, Any]:
        """Small values of a checkpoint, ready for JSON."""

    def load_state(self, values: dict[str, Any]) -> None:
        """The inverse of state(), after after_load(); {} where the checkpoint has none."""

    def statistics(self) -> Statistics:
        """Empty ones, for one update."""

    def evaluate(self, batches: Iterable[Batch], beat: Beat) -> dict[str, float]:
        """Metrics of held-out micro-batches on this rank's device, {} where there are none; a collective. The student is in training
        mode afterwards."""

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Raises: TrainingBroken where the metrics of a logged step say that nothing is learned any more."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """The error of an update whose count is 0: fact, numbers, remedy."""
