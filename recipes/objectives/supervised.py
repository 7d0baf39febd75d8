"""What all supervised objectives have in common: the engine of a trunk with a task's head, the metrics of an update, and the evaluation.
A task (classify.py, regress.py, ctc.py) adds the loss and the metrics.

Shapes: B batch, N held-out samples, C outputs of the head, K values that the metrics need of each sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from model.init import Init
from model.task_network import TaskNetwork
from model.trunk import FrontendBuilder
from recipes.config import Recipe
from recipes.engine.build import Engine, EngineBuilder
from recipes.modalities.registry import modality_of
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Beat, Display, Outcome, StudentOnly
from recipes.objectives.statistics import LossStatistics
from recipes.supervised_config import SupervisedConfig


class Prediction(NamedTuple):
    """What a network predicts for one sample: a class, a number or a transcript as text, and how sure it is (None: not known)."""

    text: str
    score: float | None = None


class LabelTask(Protocol):
    """The loss and the metrics of one kind of labels. It holds settings only, so that it serves engines and plain modules."""

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample, (B,). `outputs`: what the head gives for the batch, float32 (B, C) or (B, positions, C)."""

    def results(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return what the metrics need of each sample, float64 (B, K)."""

    def metrics(self, results_NK: Tensor) -> dict[str, float]:
        """Return the metrics of samples, in any order. `results_NK`: what results() returned for them, on the CPU."""

    def predictions(self, outputs: Tensor, batch: Batch) -> Sequence[Prediction]:
        """Return the prediction for each sample."""


class Supervised(StudentOnly):
    """Base of the objectives that learn from labels. There is no teacher: the engine is all that is trained."""

    Config: ClassVar[type[ObjectiveConfig]]
    display: ClassVar[Display]
    make_task: ClassVar[Any]
    """Class of the task: section of the recipe -> LabelTask."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build the network on its engine. A collective."""
        assert isinstance(recipe.objective, SupervisedConfig)
        self.config, self.parallel, self.stream, self._steps_done = recipe.objective, builder.parallel, builder.stream, 0
        self.task: LabelTask = self.make_task(recipe.objective)
        frozen = recipe.objective.frozen_parameters(recipe)
        build = network_builder(recipe, builder.init(recipe.run.seed))
        self.student: Engine = builder.trained(partial(build, parallel=builder.parallel, stream=builder.stream), frozen)

    def count(self, batch: Batch) -> int:
        """Return the number of samples of the batch that are counted."""
        assert batch.targets is not None
        return int(batch.targets.is_counted().sum())

    def forward(self, batch: Batch, total: int) -> Outcome:
        """Compute the summed loss of the counted samples. `total` is not used."""
        outputs = self.student(batch, self._trains_trunk())
        assert batch.targets is not None
        counted_B = batch.targets.is_counted()
        return Outcome((self.task.losses(outputs, batch) * counted_B).sum())

    def _trains_trunk(self) -> bool:
        return self.config.frozen != "trunk" and self._steps_done >= self.config.frozen_steps

    def after_step(self, step: int) -> dict[str, float]:
        """Count the update, which decides when the trunk is trained too. Return no metrics."""
        self._steps_done = step
        return {}

    def state(self) -> dict[str, Any]:
        """Return the number of updates, which decides whether the trunk is frozen."""
        return {"steps_done": self._steps_done}

    def load_state(self, values: dict[str, Any]) -> None:
        """Restore the number of updates."""
        self._steps_done = values.get("steps_done", 0)

    def statistics(self) -> LossStatistics:
        """Return an object that collects an update's metrics, still empty."""
        return LossStatistics()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], beat: Beat = lambda number: None) -> dict[str, float]:
        """Return eval_loss and the task's metrics over the held-out samples of all ranks; {} without batches. Every rank has equally
        many batches of the same sizes. The network returns to training mode. A collective."""
        self.student.eval()
        parts = []
        for number, batch in enumerate(batches):
            beat(number)
            assert batch.targets is not None
            outputs = self.student(batch)
            losses_B, results_BK = self.task.losses(outputs, batch), self.task.results(outputs, batch)
            parts.append(torch.cat([batch.targets.index_B[:, None], losses_B[:, None], results_BK], dim=1).double())
        self.student.train()
        if not parts:
            return {}
        own_NK = torch.cat(parts)
        gathered = [torch.empty_like(own_NK) for _ in range(self.parallel.dp_size)]
        dist.all_gather(gathered, own_NK, group=self.parallel.dp_group)
        all_NK = torch.cat(gathered).cpu()
        all_NK = all_NK[all_NK[:, 0] >= 0]
        all_NK = all_NK[all_NK[:, 0].argsort()]  # in the order of the data, so that the number of ranks does not show in rounding
        return {"eval_loss": float(all_NK[:, 1].mean()), **self.task.metrics(all_NK[:, 2:])}

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Do nothing: labels cannot collapse."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return the error text for an update without a label."""
        return f"update {update} ({samples} samples) has no label that the loss can count; give labelled data"


def network_builder(recipe: Recipe, init: Init | None = None) -> partial[TaskNetwork]:
    """Return the function that builds the recipe's network for the groups `parallel` and the random stream `stream`. `init`: its initial
    values; None: all of those of run.seed."""
    config = recipe.objective
    assert isinstance(config, SupervisedConfig)
    build_frontend: FrontendBuilder = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    return partial(
        TaskNetwork,
        recipe.model,
        build_frontend,
        init or Init(recipe.run.seed),
        head=config.head,
        num_outputs=config.num_outputs,
        freezes_features=config.frozen == "features",
    )
