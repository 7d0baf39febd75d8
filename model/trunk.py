"""The trunk: embed -> select -> encode. Student and teacher have trunks of the same shape. No loss, head or target here.

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
    """Input of the blocks: tokens (B, S, D), padding mask (B, S), and the attention bias (L, H, S, S); see FrontendOutput."""

    x_BSD: Tensor
    padding_mask_BS: Tensor | None
    bias_LHSS: Tensor | None


class SelectAll(nn.Module):
    """Pass every embedded token to the encoder. It is a module (without parameters) so that another selection can replace it."""

    def forward(self, front: FrontendOutput, mask_BN: Tensor | None, padding_mask_BN: Tensor | None) -> EncoderInput:
        """Return the front-end's output unchanged. The mask is not used."""
        return EncoderInput(front.x_BSD, padding_mask_BN, front.bias_LHSS)


class TrunkOutput(NamedTuple):
    """Encoder output and kept block outputs at the sample's own positions, and the front-end's features (or None)."""

    x_BND: Tensor
    layers: list[LayerOutput]
    features_BND: Tensor | None


class Trunk(nn.Module):
    """Front-end, selection of the embedded tokens that are encoded, and encoder. Downstream tasks use the trunk without a head."""

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
        """`select` has the signature of SelectAll. It must have no parameters: their names and order would change seeds and
        checkpoint keys."""
        super().__init__()
        self.frontend = build_frontend(config, init.at("frontend"), parallel, stream)
        self.select = select or SelectAll()
        self.encoder = Encoder(config, init.at("encoder"), parallel, stream)

    def forward(
        self, inputs: Tensor, mask_BN: Tensor | None, padding_mask_BN: Tensor | None, keep_from: int, *, features_BND: Tensor | None = None
    ) -> TrunkOutput:
        """Return the encoder output and the outputs of blocks `keep_from` on. mask_BN None: no position is hidden. `features_BND`:
        read instead of embedding `inputs`. Prefix tokens are attended to and then dropped, since they have no target."""
        front = self.frontend(inputs, mask_BN, padding_mask_BN, features_BND)
        chosen = self.select(front, mask_BN, padding_mask_BN)
        x_BSD, layers = self.encoder(chosen.x_BSD, chosen.padding_mask_BS, chosen.bias_LHSS, keep_from)
        prefix = self.frontend.num_prefix_tokens
        own = [LayerOutput(layer.ffn_SBD[prefix:], layer.block_SBD[prefix:]) for layer in layers]
        return TrunkOutput(x_BSD[:, prefix:], own, front.features_BND)
