"""The trunk, which student and teacher share in shape: embed -> select -> encode. Knows no loss, head or target.

Shapes: B batch, S sequence, N positions of the sample itself (S without prefix tokens), D hidden.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.frontends.output import Frontend, FrontendOutput
from model.init import Init
from model.layers import LayerOutput
from model.parallel import Parallel

FrontendBuilder = Callable[[EncoderConfig, Init, Parallel, DropoutStream], Frontend]
"""Makes a modality's front-end for an encoder: (encoder, init, parallel, stream) -> module."""


class EncoderInput(NamedTuple):
    """What the blocks read: tokens (B, S, D), True at padding (B, S), and the attention bias (L, H, S, S); see FrontendOutput."""

    x_BSD: Tensor
    padding_mask_BS: Tensor | None
    bias_LHSS: Tensor | None


class SelectAll(nn.Module):
    """Every embedded token is encoded. A module of its own without parameters, so that another choice is another module."""

    def forward(self, front: FrontendOutput, mask_BN: Tensor | None, padding_mask_BN: Tensor | None) -> EncoderInput:
        """The front-end's output as it is, whatever is masked."""
        return EncoderInput(front.x_BSD, padding_mask_BN, front.bias_LHSS)


class TrunkOutput(NamedTuple):
    """Encoder output and kept block outputs at the sample's own positions, and the front-end's features (or None)."""

    x_BND: Tensor
    layers: list[LayerOutput]
    features_BND: Tensor | None


class Trunk(nn.Module):
    """Front-end and encoder, and between them what the encoder sees of the embedded tokens. What is left for downstream use."""

    def __init__(
        self,
        config: EncoderConfig,
        build_frontend: FrontendBuilder,
        init: Init,
        parallel: Parallel,
        stream: DropoutStream,
        *,
        select: nn.Module | None = None,
    ) -> None:
        """`select` takes what SelectAll takes; it must own no parameters, whose names and order are seeds and checkpoint keys."""
        super().__init__()
        self.frontend = build_frontend(config, init.at("frontend"), parallel, stream)
        self.select = select or SelectAll()
        self.encoder = Encoder(config, init.at("encoder"), parallel, stream)

    def forward(
        self, inputs: Tensor, mask_BN: Tensor | None, padding_mask_BN: Tensor | None, keep_from: int, *, features_BND: Tensor | None = None
    ) -> TrunkOutput:
        """Encoder output and the outputs of blocks `keep_from` on. mask None: nothing is hidden. `features_BND`: read
        instead of embedding `inputs`. Prefix tokens are attended to and then dropped: they carry no target."""
        front = self.frontend(inputs, mask_BN, padding_mask_BN, features_BND)
        chosen = self.select(front, mask_BN, padding_mask_BN)
        x_BSD, layers = self.encoder(chosen.x_BSD, chosen.padding_mask_BS, chosen.bias_LHSS, keep_from)
        prefix = self.frontend.num_prefix_tokens
        own = [LayerOutput(layer.ffn_SBD[prefix:], layer.block_SBD[prefix:]) for layer in layers]
        return TrunkOutput(x_BSD[:, prefix:], own, front.features_BND)
