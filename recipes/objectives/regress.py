"""Regression: one number for each sample, by squared error.

Shapes: B batch, N samples, K values of a sample (number, predicted number).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from model.batch import Batch
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Column, Display
from recipes.objectives.supervised import Prediction, Supervised
from recipes.scores.table import NUMBER_METRICS
from recipes.supervised_config import RegressConfig


class NumberTask:
    """Squared error, and correlations. Implements LabelTask."""

    def __init__(self, config: RegressConfig) -> None:
        """`config` is not read: the task has no settings."""

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the squared error of each sample, (B,)."""
        assert batch.targets is not None
        return (outputs[:, 0] - batch.targets.values).square()

    def results(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return number and predicted number, float64 (B, 2)."""
        assert batch.targets is not None
        return torch.stack([batch.targets.values.double(), outputs[:, 0].double()], dim=1)

    def metrics(self, results_NK: Tensor) -> dict[str, float]:
        """Return pearson, spearman, their mean pearson_and_spearman, and mse. Correlations of constant values are NaN."""
        truth_N, predicted_N = results_NK.numpy().T
        return {name: metric(truth_N, predicted_N) for name, metric in NUMBER_METRICS.items()}

    def predictions(self, outputs: Tensor, batch: Batch) -> Sequence[Prediction]:
        """Return the predicted number of each sample."""
        return [Prediction(f"{value:.6g}", value) for value in outputs[:, 0].tolist()]


class Regress(Supervised):
    """The objective of a regression."""

    Config: ClassVar[type[ObjectiveConfig]] = RegressConfig
    make_task = NumberTask
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"),),
        at_evaluations=(
            Column("eval_loss", "eval_loss", ".4f"),
            Column("pearson", "pearson", ".4f"),
            Column("spearman", "spearman", ".4f"),
        ),
        panels={"loss": ("loss", "eval_loss"), "correlation": ("pearson", "spearman")},
    )
