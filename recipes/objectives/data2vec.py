"""One forward of the data2vec objective on the two engines: prediction, target and loss of a micro-batch.

Everything that computes the objective (training, evaluation, replay, benchmark) goes through here.

Shapes: M masked positions, D hidden, B batch, S sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.batch import Batch
from model.config import LossConfig
from model.loss import regression_loss
from model.student import take_masked
from recipes.engine.build import Engines


class Objective(NamedTuple):
    """What one micro-batch gave; the loss is a sum over its masked positions."""

    loss: Tensor
    prediction_MD: Tensor
    target_MD: Tensor
    target_BSD: Tensor
    """Targets at every position; the loss reads only the masked ones."""


def forward(engines: Engines, batch: Batch, config: LossConfig) -> Objective:
    """Predictions from the student on the masked input, targets from the teacher on the clean one, their loss."""
    prediction_MD, features_BND = engines.student(batch)
    with torch.no_grad():
        target_BSD = engines.teacher(batch, features_BND)
    target_MD = take_masked(target_BSD, batch.masked_index_M)
    return Objective(regression_loss(prediction_MD, target_MD, config), prediction_MD, target_MD, target_BSD)


def backward(engines: Engines, objective: Objective, masked_in_update: int) -> None:
    """Add this micro-batch's share of the update's gradient: d(sum of losses / masked positions of the whole update).

    DeepSpeed divides by ranks and micro-batches, which would weigh micro-batches with fewer masked positions more; the
    factor undoes both.
    """
    micro_batches = engines.parallel.dp_size * engines.student.gradient_accumulation_steps()
    engines.student.backward(objective.loss * (micro_batches / masked_in_update))
