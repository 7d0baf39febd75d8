"""Classification: one class for each sample, by cross-entropy.

Shapes: B batch, N samples, C classes, K values of a sample (class, predicted class, whether the class is among the five most probable).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Column, Display
from recipes.objectives.supervised import Prediction, Supervised
from recipes.scores.table import CLASS_METRICS
from recipes.supervised_config import ClassifyConfig

TOP = 5
OF_TWO_CLASSES = frozenset(("f1", "acc_and_f1"))
"""Metrics that look for the second of two classes."""


class ClassTask:
    """Cross-entropy with class weights and label smoothing, and the metrics of classes. Implements LabelTask."""

    def __init__(self, config: ClassifyConfig) -> None:
        self._config = config
        self._weight_C = torch.tensor(config.class_weights) if config.class_weights else None

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of each sample, (B,). Targets are classes, or shares of mixed classes (which are smoothed already).
        Samples that are not counted have the loss of class 0."""
        assert batch.targets is not None
        values = batch.targets.values
        if self._weight_C is not None:
            self._weight_C = self._weight_C.to(outputs.device)  # copies once
        if values.dtype.is_floating_point:
            return F.cross_entropy(outputs, values, self._weight_C, reduction="none")
        return F.cross_entropy(outputs, values.clamp(min=0), self._weight_C, reduction="none", label_smoothing=self._config.label_smoothing)

    def results(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return class, predicted class and 1 if the class is among the TOP most probable ones, float64 (B, 3). A tie counts against the
        class, and so does nan: a network with constant outputs has no class among them."""
        assert batch.targets is not None
        own_B1 = outputs.gather(1, batch.targets.values.clamp(min=0)[:, None])
        is_top_B = (~(outputs < own_B1)).sum(1) <= TOP
        return torch.stack([batch.targets.values.double(), outputs.argmax(1).double(), is_top_B.double()], dim=1)

    def metrics(self, results_NK: Tensor) -> dict[str, float]:
        """Return accuracy, matthews and macro_f1; with two classes f1 of the second one and acc_and_f1; with more than TOP classes
        top5_accuracy."""
        truth_N, predicted_N = results_NK[:, :2].long().numpy().T
        names = CLASS_METRICS if len(self._config.labels) == 2 else CLASS_METRICS.keys() - OF_TWO_CLASSES
        found = {name: CLASS_METRICS[name](truth_N, predicted_N) for name in sorted(names)}
        return found | ({f"top{TOP}_accuracy": float(results_NK[:, 2].mean())} if len(self._config.labels) > TOP else {})

    def predictions(self, outputs: Tensor, batch: Batch) -> Sequence[Prediction]:
        """Return the most probable class of each sample and its probability."""
        score_B, class_B = outputs.softmax(1).max(1)
        labels = self._config.labels
        return [Prediction(labels[number], score) for number, score in zip(class_B.tolist(), score_B.tolist(), strict=True)]


class Classify(Supervised):
    """The objective of a classification."""

    Config: ClassVar[type[ObjectiveConfig]] = ClassifyConfig
    make_task = ClassTask
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"),),
        at_evaluations=(
            Column("eval_loss", "eval_loss", ".4f"),
            Column("accuracy", "accuracy", ".4f"),
            Column("f1", "f1", ".4f"),
            Column("matthews", "matthews", ".4f"),
            Column("top5_accuracy", "top 5", ".4f"),
        ),
        panels={"loss": ("loss", "eval_loss"), "accuracy": ("accuracy", "top5_accuracy"), "f1, matthews": ("f1", "macro_f1", "matthews")},
    )
