"""A supervised objective in one file, for tests of the objective interface: labels, a linear head, no teacher. The front-end is always
frozen, the encoder for the first updates. The label of a text follows from its first token.

Shapes: B batch, S sequence, D hidden, C classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig
from model.frontends.config import FrontendConfig
from model.init import UniformLinear
from model.shapes import ParameterShape, vectors
from model.trunk import Trunk
from recipes.config import Recipe
from recipes.engine.build import Engine, EngineBuilder
from recipes.modalities.registry import MODALITIES
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Beat, Column, Display, Outcome
from recipes.text import text_tiny


@dataclass(frozen=True)
class ClassifyConfig(ObjectiveConfig):
    """The objective's section of the recipe."""

    kind: ClassVar[str] = "toy_classify:Classify"
    num_classes: int = 3
    frozen_steps: int = 5
    """Updates during which the encoder is frozen."""

    def head_parameters(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[ParameterShape]:
        """Return the parameters of the linear head."""
        return [ParameterShape("weight", (self.num_classes, encoder.hidden_size)), *vectors(self.num_classes, "bias")]


def text_classify() -> Recipe:
    """text_tiny with labels in place of a teacher."""
    return replace(text_tiny(), name="text_classify", objective=ClassifyConfig())


class Classifier(nn.Module):
    """Trunk, its output at the first token, linear head."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        super().__init__()
        init, frontend = builder.init(recipe.run.seed), MODALITIES[recipe.modality].build_frontend(recipe)
        self.trunk = Trunk(recipe.model, frontend, init.at("trunk"), builder.parallel, builder.stream)
        self.head = UniformLinear(recipe.model.hidden_size, recipe.objective.num_classes, init.at("head"))  # type: ignore[attr-defined]

    def forward(self, batch: Batch, trains_encoder: bool) -> Tensor:
        """Return logits (B, C)."""
        padding_BS, num_layers = batch.clean_padding_mask_BS, len(self.trunk.encoder.layers)
        with torch.no_grad():
            front = self.trunk.frontend(batch.clean_inputs, None, padding_BS)
        with torch.set_grad_enabled(trains_encoder and torch.is_grad_enabled()):
            x_BSD, _ = self.trunk.encoder(front.x_BSD, padding_BS, front.bias_LHSS, num_layers)
        return self.head(x_BSD[:, 1])


@dataclass(frozen=True)
class ClassifyOutcome(Outcome):
    """One micro-batch."""

    num_right: Tensor


class ClassifyStatistics:
    """Loss and accuracy of an update."""

    def __init__(self) -> None:
        self._sums: Tensor | float = 0.0

    def add(self, outcome: ClassifyOutcome) -> None:
        """Add one micro-batch."""
        self._sums = self._sums + torch.stack([outcome.loss.detach().double(), outcome.num_right.double()])

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Reduce over all ranks."""
        assert isinstance(self._sums, Tensor)
        dist.all_reduce(self._sums, group=group)
        loss, num_right = (self._sums / total).tolist()
        return {"loss": loss, "accuracy": num_right}


class Classify:
    """See recipes/objectives/base.py."""

    Config: ClassVar[type[ObjectiveConfig]] = ClassifyConfig
    display: ClassVar[Display] = Display(
        (Column("loss", "loss", ".4f"), Column("accuracy", "accuracy", ".2f")),
        (Column("eval_accuracy", "eval_accuracy", ".2f"),),
        {"loss": ("loss",), "accuracy": ("accuracy", "eval_accuracy")},
    )

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        self._config: Any = recipe.objective
        self.parallel, self.stream, self._steps_done = builder.parallel, builder.stream, 0
        frozen = {"trunk.frontend.": None, "trunk.encoder.": self._config.frozen_steps}
        self.student: Engine = builder.trained(partial(Classifier, recipe, builder), frozen)

    def count(self, batch: Batch) -> int:
        """Return the number of labels."""
        return len(batch.inputs)

    def forward(self, batch: Batch, total: int) -> ClassifyOutcome:
        """Return the sum of the cross entropy."""
        logits_BC = self.student(batch, self._steps_done >= self._config.frozen_steps).float()
        labels_B = batch.clean_inputs[:, 1] % self._config.num_classes
        return ClassifyOutcome(F.cross_entropy(logits_BC, labels_B, reduction="sum"), (logits_BC.argmax(1) == labels_B).sum())

    def after_step(self, step: int) -> dict[str, float]:
        """Count the update."""
        self._steps_done = step
        return {}

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Return none: only the student has state."""
        return {}

    def after_load(self) -> None:
        """Do nothing: there is no teacher."""

    def restart(self) -> None:
        """Do nothing: there is no teacher."""

    def state(self) -> dict[str, Any]:
        """Return the number of updates, which decides whether the encoder is frozen."""
        return {"steps_done": self._steps_done}

    def load_state(self, values: dict[str, Any]) -> None:
        """Set the state that state() has returned."""
        self._steps_done = values.get("steps_done", 0)

    def statistics(self) -> ClassifyStatistics:
        """Return empty statistics."""
        return ClassifyStatistics()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], beat: Beat) -> dict[str, float]:
        """Return the accuracy on held-out texts."""
        self.student.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.student.device)
        for number, batch in enumerate(batches):
            beat(number)
            outcome = self.forward(batch, 1)  # a collective, also of a batch that is not counted
            if batch.is_counted:
                sums += torch.stack([outcome.num_right, torch.tensor(self.count(batch), device=sums.device)])
        self.student.train()
        dist.all_reduce(sums, group=self.parallel.dp_group)
        return {"eval_accuracy": float(sums[0] / sums[1])} if sums[1] else {}

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Do nothing: this objective cannot collapse."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return a message that should never be needed: every text has a label."""
        return f"update {update} of {samples} samples has no label"
