"""The data2vec regression loss. Summed, not averaged: the loop divides by the masked positions of the whole update.

Shapes: M masked positions, D hidden.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from model.config import LossConfig


def regression_loss(prediction_MD: Tensor, target_MD: Tensor, config: LossConfig) -> Tensor:
    """Return the sum over positions of the smooth L1 loss (`config.beta` > 0) or the squared error (0), computed in float32. `config`
    also says whether channels are summed or averaged, and the factor on the result.

    Source: paper section 3.4, whose formula is torch's smooth_l1_loss; fairseq data2vec_*.py for the scales.
    """
    prediction_MD, target_MD = prediction_MD.float(), target_MD.float()
    if config.beta == 0:
        loss = F.mse_loss(prediction_MD, target_MD, reduction="sum")
    else:
        loss = F.smooth_l1_loss(prediction_MD, target_MD, reduction="sum", beta=config.beta)
    if config.channels == "mean":
        loss = loss / prediction_MD.shape[-1]
    return loss * (1 / math.sqrt(prediction_MD.shape[-1]) if config.scale is None else config.scale)
