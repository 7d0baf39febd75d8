"""The student: front-end, encoder and regression head; and the trunk (the first two) that the teacher has too.

Shapes: B batch, S sequence, N positions of the sample itself (S without prefix tokens), D hidden, M masked positions.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.frontends.output import Frontend
from model.init import Init, ReplicatedLinear, UniformLinear
from model.layers import ACTIVATIONS, LayerOutput
from model.parallel import Parallel

FrontendBuilder = Callable[[EncoderConfig, Init, Parallel, DropoutStream], Frontend]
"""Makes a modality's front-end for an encoder: (encoder, init, parallel, stream) -> module."""


class TrunkOutput(NamedTuple):
    """Encoder output and kept block outputs at the sample's own positions, and the front-end's features (or None)."""

    x_BND: Tensor
    layers: list[LayerOutput]
    features_BND: Tensor | None


class Trunk(nn.Module):
    """Front-end and encoder: what teacher and student share in shape, and what is left for downstream use."""

    def __init__(
        self, config: EncoderConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        self.frontend = build_frontend(config, init.at("frontend"), parallel, stream)
        self.encoder = Encoder(config, init.at("encoder"), parallel, stream)

    def forward(
        self, inputs: Tensor, mask_BN: Tensor | None, padding_mask_BN: Tensor | None, keep_from: int, *, features_BND: Tensor | None = None
    ) -> TrunkOutput:
        """Encoder output and the outputs of blocks `keep_from` on. mask None: nothing is hidden. `features_BND`: read
        instead of embedding `inputs`. Prefix tokens are attended to and then dropped: they carry no target."""
        front = self.frontend(inputs, mask_BN, padding_mask_BN, features_BND)
        x_BSD, layers = self.encoder(front.x_BSD, padding_mask_BN, front.bias_LHSS, keep_from)
        prefix = self.frontend.num_prefix_tokens
        own = [LayerOutput(layer.ffn_SBD[prefix:], layer.block_SBD[prefix:]) for layer in layers]
        return TrunkOutput(x_BSD[:, prefix:], own, front.features_BND)


class RegressionHead(nn.Module):
    """Linear layers d -> 2d -> ... -> d with the activation between; one layer is d -> d, none is the identity. Held whole
    on every TP rank: it sees only masked positions. Source: fairseq data2vec_text.py build_regression_head."""

    def __init__(self, config: EncoderConfig, init: Init) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(pairwise(config.head_widths)):
            place = init.at("layers", i)
            if config.head_init == "torch":
                self.layers.append(UniformLinear(n_in, n_out, place))
            else:
                self.layers.append(ReplicatedLinear(n_in, n_out, place, config.init_std, truncated=config.block.truncated_init))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_MD: Tensor) -> Tensor:
        """Shapes: (M, D) -> (M, D)."""
        for i, layer in enumerate(self.layers):
            x_MD = layer(x_MD if i == 0 else self.activation(x_MD))
        return x_MD


class StudentOutput(NamedTuple):
    """Predictions (M, D) at the masked positions, and the unmasked features that a sharing teacher reads (or None)."""

    prediction_MD: Tensor
    features_BND: Tensor | None


class Student(nn.Module):
    """Trunk and head. Its forward is what DeepSpeed's engine calls."""

    def __init__(
        self, config: EncoderConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        self.trunk = Trunk(config, build_frontend, init, parallel, stream)
        self.head = RegressionHead(config, init.at("head"))

    def forward(self, batch: Batch) -> StudentOutput:
        """Predictions at the masked positions of the masked input."""
        num_layers = len(self.trunk.encoder.layers)
        out = self.trunk(batch.inputs, batch.mask_BS, batch.padding_mask_BS, keep_from=num_layers)
        return StudentOutput(self.head(take_masked(out.x_BND, batch.masked_index_M)), out.features_BND)


def take_masked(x_BND: Tensor, masked_index_M: Tensor) -> Tensor:
    """Rows (M, D) of x at flat positions (B, N row-major)."""
    return x_BND.reshape(-1, x_BND.shape[-1]).index_select(0, masked_index_M)
