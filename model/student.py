"""The student of data2vec: trunk and regression head on the masked input.

Shapes: B batch, N positions of the sample itself, D hidden, M masked positions.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.heads import RegressionHead
from model.init import Init
from model.parallel import Parallel
from model.trunk import FrontendBuilder, Trunk


class StudentOutput(NamedTuple):
    """Predictions (M, D) at the masked positions, and the unmasked features (or None), for a teacher that shares them."""

    prediction_MD: Tensor
    features_BND: Tensor | None


class Student(nn.Module):
    """Trunk and head. DeepSpeed's engine calls its forward."""

    def __init__(
        self, config: EncoderConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        self.trunk = Trunk(config, build_frontend, init, parallel, stream)
        self.head = RegressionHead(config, init.at("head"))

    def forward(self, batch: Batch) -> StudentOutput:
        """Return the predictions at the masked positions of the masked input."""
        num_layers = len(self.trunk.encoder.layers)
        out = self.trunk(batch.inputs, batch.masks.mask_BS, batch.padding_mask_BS, keep_from=num_layers)
        return StudentOutput(self.head(take_masked(out.x_BND, batch.masks.masked_index_M)), out.features_BND)


def take_masked(x_BND: Tensor, masked_index_M: Tensor) -> Tensor:
    """Return the rows (M, D) of x at the flat positions `masked_index_M` (row-major over B, N)."""
    return x_BND.reshape(-1, x_BND.shape[-1]).index_select(0, masked_index_M)
