"""data2vec 1.0: the student predicts, at masked positions, the averaged layers of an EMA teacher that reads the whole sample.

Everything that computes it (training, evaluation, replay, benchmark) goes through this object. Source: arXiv 2202.03555, section 3.

Shapes: M masked positions, D hidden, B batch, S sequence.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig, TeacherConfig
from model.frontends.output import Frontend, FrontendOutput
from model.loss import regression_loss
from model.student import Student, take_masked
from model.teacher import ShadowWeights, Teacher
from recipes.config import Recipe
from recipes.engine import shards
from recipes.engine.build import Engine, EngineBuilder
from recipes.errors import TrainingBroken
from recipes.masked_config import Data2VecConfig
from recipes.modalities.registry import modality_of
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.base import Beat, Column, Display
from recipes.objectives.statistics import EvaluationStatistics, RegressionOutcome, UpdateStatistics

TRUNK = "trunk."


class Data2Vec:
    """The objective of data2vec: the student's and the teacher's engine, and the teacher's weights, an average (EMA) of the student's."""

    Config: ClassVar[type[ObjectiveConfig]] = Data2VecConfig
    display: ClassVar[Display] = Display(
        every_step=(Column("loss", "loss", ".4f"), Column("target_std", "target_std", ".3f")),
        at_evaluations=(
            Column("eval_loss", "eval_loss", ".4f"),
            Column("explained_variance", "explained", ".3f"),
            Column("target_rank", "rank", ".1f"),
        ),
        panels={
            "loss": ("loss", "eval_loss"),
            "std over positions": ("target_std", "pred_std", "frontend_std"),
            "explained variance": ("explained_variance", "neighbour_correlation"),
            "effective rank of the targets": ("target_rank",),
        },
        next_command="python launch/probe.py --from {run_dir}",
    )

    def __init__(self, recipe: Recipe, builder: EngineBuilder) -> None:
        """Build student and teacher with the same initial weights. A collective."""
        self._recipe, self.parallel, self.stream = recipe, builder.parallel, builder.stream
        build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
        init, parallel = builder.init(recipe.run.seed), builder.parallel
        self.student: Engine = builder.trained(partial(Student, recipe.model, build_frontend, init, parallel, builder.stream))
        unset = replace(init, share=None)  # build_shadow() sets all of the teacher's weights
        teacher = partial(Teacher, recipe.model, recipe.teacher, build_frontend, unset, parallel)
        self.teacher, self._gathering = builder.fixed(teacher)
        self.shadow = build_shadow(self.student, self.teacher, recipe.teacher, self._gathering.outdate)

    def count(self, batch: Batch) -> int:
        """Return the number of masked positions of the batch."""
        return batch.masks.num_masked

    def forward(self, batch: Batch, total: int) -> RegressionOutcome:
        """Compute the student's predictions on the masked input, the teacher's targets on the clean input, and the loss. `total` is not
        used."""
        self._gathering.start()  # the teacher's weights arrive during the student's forward
        return regress(self.student, self.teacher, batch, self._recipe.loss)

    def after_step(self, step: int) -> dict[str, float]:
        """Do one EMA step of the teacher's weights, with the decay after `step` updates. Return that decay as `ema_decay`."""
        decay = self._recipe.teacher.decay_after(step)
        self.shadow.update(decay)
        return {"ema_decay": decay}

    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Return the teacher's float32 weights: {"shadow": name of a student parameter -> this rank's shard}."""
        return {"shadow": self.shadow.shadows}

    def after_load(self) -> None:
        """Copy the teacher's float32 weights, rounded, into the weights that it computes with."""
        self.shadow.publish()

    def restart(self) -> None:
        """Set the teacher's weights to the student's current ones."""
        self.shadow.reset()

    def state(self) -> dict[str, Any]:
        """Return {}: a checkpoint needs no further values, since the EMA decay is a function of the step."""
        return {}

    def load_state(self, values: dict[str, Any]) -> None:
        """Do nothing: a checkpoint holds no further values of data2vec."""

    def statistics(self) -> UpdateStatistics:
        """Return an object that collects an update's loss, target_std, pred_std and masked_fraction, still empty."""
        return UpdateStatistics()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], beat: Beat = lambda number: None) -> dict[str, float]:
        """Return eval_loss and the other held-out metrics; {} without batches. `beat` is called with the number of each batch. Both
        networks are in eval mode; the student returns to training mode. A collective."""
        statistics, captured = EvaluationStatistics(), list[Tensor]()

        def capture(module: Frontend, inputs: tuple, output: FrontendOutput) -> None:
            captured[:] = [output.x_BSD[:, module.num_prefix_tokens :]]

        hook = self.student.module.trunk.frontend.register_forward_hook(capture)
        self.student.eval()
        seen = False
        for number, batch in enumerate(batches):
            beat(number)
            statistics.add(batch, self.forward(batch, self.count(batch)), captured[0])
            seen = True
        self.student.train()
        hook.remove()
        return statistics.reduce(self.parallel.dp_group) if seen else {}

    def check(self, metrics: Mapping[str, Any]) -> None:
        """Check a logged step for collapse. Raises: TrainingBroken if, after guard.after_steps, target_std or pred_std is below its
        threshold.

        Source: fairseq data2vec_audio.py, min_target_var 0.1 and min_pred_var 0.01 (which are stds).
        """
        guard, step = self._recipe.guard, metrics["step"]
        if step <= guard.after_steps:
            return
        for name, least in (("target_std", guard.min_target_std), ("pred_std", guard.min_pred_std)):
            if metrics[name] < least:
                raise TrainingBroken(
                    f"collapsed at step {step}: {name} {metrics[name]:.4f} is below {least}; look at {name} and target_rank in "
                    "metrics.jsonl, then lower optim.lr, lengthen optim.warmup_steps or raise teacher.ema_decay"
                )

    def nothing_counted(self, update: int, samples: int) -> str:
        """Return the error text for an update of `samples` samples without a masked position."""
        return f"no position of update {update} ({samples} samples) is masked; raise --set mask.prob"


def regress(student: Callable[..., Any], teacher: Callable[..., Any], batch: Batch, config: LossConfig) -> RegressionOutcome:
    """Run one micro-batch through student and teacher (engines or plain modules). Return the loss, summed over the masked positions, and
    the predictions and targets from which it was computed."""
    prediction_MD, features_BND = student(batch)
    with torch.no_grad():
        target_BSD = teacher(batch, features_BND)
    target_MD = take_masked(target_BSD, batch.masks.masked_index_M)
    return RegressionOutcome(regression_loss(prediction_MD, target_MD, config), prediction_MD, target_MD, target_BSD)


def build_shadow(student: Engine, teacher: Engine, config: TeacherConfig, after_write: Callable[[], object]) -> ShadowWeights:
    """Return the teacher's EMA weights: this rank's float32 shard of each parameter of front-end and encoder. They start equal to the
    student's. `after_write` is called after each write into the teacher's shards."""
    masters = {n: shards.master_shard(p) for n, p in shards.named_parameters(student) if n.startswith(TRUNK)}
    computed = {n: shards.compute_shard(p) for n, p in shards.named_parameters(teacher)}
    copied = {f"{TRUNK}frontend.{n}" for n in student.module.trunk.frontend.shared_parameters(config.shares)}
    return ShadowWeights(masters, computed, copied, after_write)
