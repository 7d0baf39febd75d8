"""Prediction of the input itself at masked positions: masked language modelling (mlm) and regression of pixels (pixels). There is no
teacher. They are controls for data2vec: the same trunk, masks and data with another target.

Shapes: B batch, C colours, H, W pixels of a side, P pixels of a patch in all colours, M masked positions, V vocabulary.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch
from model.frontends.pixels import normalise
from model.student import Student, take_masked
from recipes.config import Recipe
from recipes.engine.build import Engine, EngineBuilder
from recipes.masked_config import InputConfig, MlmConfig, PixelsConfig
from recipes.modalities.registry import modality_of
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Beat, Column, Display, Outcome, StudentOnly
from recipes.objectives.statistics import LossStatistics

PATCH_EPS = 1e-6
"""Added to the variance of a patch before it is divided by (MAE: models_mae.py forward_loss)."""


class MaskedStatistics(LossStatistics):
    """Collects the loss of one update and the share of positions that are masked."""

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Return the mean loss of the `total` masked positions, and their share of all `tokens` positions. A collective."""
        return {**super().reduce(group, total, tokens), "masked_fraction": total / tokens}


class MaskedInput(StudentOnly):
    """Base of the objectives whose target is the input at masked positions. A subclass adds the target, the loss and a metric."""

    score: ClassVar[str]
    """Name of the held-out metric: 1 - (sum of misses() / sum of total_misses())."""

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build the network on its engine. A collective."""
        assert isinstance(recipe.objective, InputConfig)
        self._recipe, self.parallel, self.stream = recipe, builder.parallel, builder.stream
        build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
        num_outputs = recipe.objective.num_outputs(recipe.model, recipe.frontend)
        init, parallel = builder.init(recipe.run.seed), builder.parallel
        build = partial(Student, recipe.model, build_frontend, init, parallel, builder.stream, num_outputs=num_outputs)
        self.student: Engine = builder.trained(build)

    def count(self, batch: Batch) -> int:
        """Return the number of masked positions of the batch."""
        return batch.masks.num_masked

    def forward(self, batch: Batch, total: int) -> Outcome:
        """Compute the loss, summed over the masked positions. `total` is not used."""
        return Outcome(self.losses(self.student(batch).prediction_MD.float(), self.target(batch)).sum())

    def statistics(self) -> MaskedStatistics:
        """Return an object that collects an update's loss, still empty."""
        return MaskedStatistics()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], beat: Beat = lambda number: None) -> dict[str, float]:
        """Return eval_loss and the held-out metric over the masked positions of all ranks; {} without batches. The network returns to
        training mode. A collective."""
        self.student.eval()
        sums: Tensor | None = None
        for number, batch in enumerate(batches):
            beat(number)
            output, target = self.student(batch).prediction_MD.float(), self.target(batch)
            values = (self.losses(output, target), self.misses(output, target), self.total_misses(target), torch.ones(len(output)))
            found = torch.stack([value.double().sum().to(output.device) for value in values]) * batch.is_counted
            sums = found if sums is None else sums + found
        self.student.train()
        if sums is None:
            return {}
        dist.all_reduce(sums, group=self.parallel.dp_group)
        loss, misses, total_misses, count = sums.tolist()
        return {"eval_loss": loss / max(1.0, count), self.score: 1 - misses / max(1e-12, total_misses)}

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Do nothing: the input cannot collapse."""

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return the error text for an update of `samples` samples without a masked position."""
        return f"no position of update {update} ({samples} samples) is masked; raise --set mask.prob"

    def target(self, batch: Batch) -> Tensor:
        """Return what is predicted at each masked position: (M,) or (M, outputs)."""
        raise NotImplementedError

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each masked position, (M,). `output`: what the head gives, float32 (M, outputs)."""
        raise NotImplementedError

    def misses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return by how much each prediction misses its target, (M,)."""
        raise NotImplementedError

    def total_misses(self, target: Tensor) -> Tensor:
        """Return the misses for which the held-out metric is 0, (M,)."""
        raise NotImplementedError


class Mlm(MaskedInput):
    """Masked language modelling: which token was masked. Source: BERT (arXiv 1810.04805, section 3.1)."""

    Config: ClassVar[type[ObjectiveConfig]] = MlmConfig
    score = "accuracy"
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"),),
        at_evaluations=(Column("eval_loss", "eval_loss", ".4f"), Column("accuracy", "accuracy", ".4f")),
        panels={"loss": ("loss", "eval_loss"), "accuracy at masked tokens": ("accuracy",)},
        next_command="python launch/probe.py --from {run_dir}",
    )

    def target(self, batch: Batch) -> Tensor:
        """Return the ids of the masked tokens, int64 (M,)."""
        return batch.clean_inputs.flatten()[batch.masks.masked_index_M]

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each masked token. Shapes: (M, V), (M,) -> (M,)."""
        return F.cross_entropy(output, target, reduction="none")

    def misses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return True for each token that is not the most probable one. Shapes: (M, V), (M,) -> (M,)."""
        return output.argmax(1) != target

    def total_misses(self, target: Tensor) -> Tensor:
        """Return ones, so that the metric is a share. Shapes: (M,) -> (M,)."""
        return torch.ones_like(target)


class Pixels(MaskedInput):
    """Regression of the pixels of masked patches. Source: MAE (arXiv 2111.06377, section 3)."""

    Config: ClassVar[type[ObjectiveConfig]] = PixelsConfig
    score = "explained_variance"
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"),),
        at_evaluations=(Column("eval_loss", "eval_loss", ".4f"), Column("explained_variance", "explained", ".3f")),
        panels={"loss": ("loss", "eval_loss"), "explained variance": ("explained_variance",)},
        next_command="python launch/probe.py --from {run_dir}",
    )

    def target(self, batch: Batch) -> Tensor:
        """Return the pixels of the masked patches, float32 (M, P), normalised over each patch if the recipe says so."""
        config: Any = self._recipe.objective
        frontend: Any = self._recipe.frontend
        patches_MP = take_masked(patches(normalise(batch.clean_inputs).float(), frontend.patch_size), batch.masks.masked_index_M)
        if not config.normalize:
            return patches_MP
        variance_M1, mean_M1 = torch.var_mean(patches_MP, dim=1, keepdim=True)
        return (patches_MP - mean_M1) / (variance_M1 + PATCH_EPS).sqrt()

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the squared error, averaged over the pixels of each patch. Shapes: (M, P), (M, P) -> (M,)."""
        return (output - target).square().mean(1)

    def misses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the squared errors. Shapes: (M, P), (M, P) -> (M,)."""
        return self.losses(output, target)

    def total_misses(self, target: Tensor) -> Tensor:
        """Return the mean square of each patch's target: the error of predicting 0. Shapes: (M, P) -> (M,)."""
        return target.square().mean(1)


def patches(pixels_BCHW: Tensor, size: int) -> Tensor:
    """Return the patches of images, row by row, each with its pixels in the order colour, row, column. Shapes: (B, C, H, W) -> (B,
    patches, C x size x size)."""
    return F.unfold(pixels_BCHW, size, stride=size).transpose(1, 2)
