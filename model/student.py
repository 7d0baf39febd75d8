"""The student: trunk, and head that predicts at the masked positions of the input.

Shapes: B batch, N positions of the sample itself, D channels of the trunk (of the head in prediction_MD), M masked positions.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.heads import MaskedHead
from model.init import Init
from model.parallel import Parallel
from model.trunk import FrontendBuilder, Trunk


class StudentOutput(NamedTuple):
    """The student's predictions at the masked positions, and its embedded input before masking (None for text), which a teacher may use
    too."""

    prediction_MD: Tensor
    features_BND: Tensor | None


class Student(nn.Module):
    """The network that is trained: front-end and encoder (the trunk), then the head. DeepSpeed's engine calls its forward."""

    def __init__(
        self,
        config: EncoderConfig,
        build_frontend: FrontendBuilder,
        init: Init,
        parallel: Parallel,
        stream: DropoutStream,
        *,
        num_outputs: int | None = None,
    ) -> None:
        """`num_outputs`: numbers that the head predicts at a position. None: as many as the trunk has channels (data2vec)."""
        super().__init__()
        self.trunk = Trunk(config, build_frontend, init, parallel, stream)
        self.head = MaskedHead(config, init.at("head"), num_outputs)

    def forward(self, batch: Batch) -> StudentOutput:
        """Read the masked input and return a prediction for each masked position. In training the last block computes at these positions
        alone; in eval mode it computes at all, since probes read its outputs."""
        num_layers = len(self.trunk.encoder.layers)
        masks, index_M = batch.masks, batch.masks.masked_index_M
        optional = {"segments": batch.segments, "only_M": index_M if self.training else None}
        out = self.trunk(batch.inputs, masks.mask_BS, batch.padding_mask_BS, keep_from=num_layers, **optional)
        x_MD = out.x_BND[0] if self.training else take_masked(out.x_BND, index_M)
        return StudentOutput(self.head(x_MD), out.features_BND)


def take_masked(x_BND: Tensor, masked_index_M: Tensor) -> Tensor:
    """Return the rows of x at the masked positions. The index counts positions over the whole micro-batch, sample after sample.
    Shapes: x (batch, positions, D), index (M,) -> (M, D)."""
    return x_BND.reshape(-1, x_BND.shape[-1]).index_select(0, masked_index_M)
