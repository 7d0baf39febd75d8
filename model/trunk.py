"""The trunk: embed -> select -> encode. Student and teacher have trunks of the same shape. No loss, head or target here.

Shapes: B batch, S sequence, N positions of the sample itself (S without prefix tokens), D hidden.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from model.batch import Segments
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.frontends.output import Frontend, FrontendOutput
from model.init import Init
from model.layers import LayerOutput
from model.parallel import Parallel
from model.subset import PositionSubset

FrontendBuilder = Callable[[EncoderConfig, Init, Parallel, DropoutStream], Frontend]
"""Makes a modality's front-end for an encoder: (encoder, init, parallel, stream) -> module."""


class EncoderInput(NamedTuple):
    """What the Transformer blocks read: embedded tokens (B, S, D), padding mask (B, S) or None, attention bias (L, H, S, S) or None, and
    the number of each position's sample in its row (B, S) or None. B batch, S sequence, D channels, H local heads, L 1 or the number of
    blocks."""

    x_BSD: Tensor
    padding_mask_BS: Tensor | None
    bias_LHSS: Tensor | None
    segment_BS: Tensor | None = None


class SelectAll(nn.Module):
    """Pass every embedded token to the encoder. It is a module (without parameters) so that a module that selects some can replace it."""

    def forward(self, front: FrontendOutput, mask_BN: Tensor | None, padding_mask_BN: Tensor | None) -> EncoderInput:
        """Return all tokens of the front-end, its attention bias and segments, and the padding mask, unchanged. mask_BN is not used."""
        return EncoderInput(front.x_BSD, padding_mask_BN, front.bias_LHSS, front.segment_BS)


class TrunkOutput(NamedTuple):
    """What a trunk returns: the encoder's output, the outputs of some blocks, and the front-end's embedded input before masking (or
    None). Prefix tokens such as CLS are cut off. Shapes: x (batch, positions, channels), layers (positions, batch, channels)."""

    x_BND: Tensor
    layers: list[LayerOutput]
    features_BND: Tensor | None


class Trunk(nn.Module):
    """A network without a head: front-end, then the selection of tokens to encode (by default all), then the encoder. Downstream tasks
    use it."""

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
        """`select`: a module with the signature of SelectAll, which is the default. It must have no parameters: their names and order
        would change seeds and checkpoint keys."""
        super().__init__()
        self.frontend = build_frontend(config, init.at("frontend"), parallel, stream)
        self.select = select or SelectAll()
        self.encoder = Encoder(config, init.at("encoder"), parallel, stream)

    def forward(
        self,
        inputs: Tensor,
        mask_BN: Tensor | None,
        padding_mask_BN: Tensor | None,
        keep_from: int,
        *,
        features_BND: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
        segments: Segments | None = None,
        only_M: Tensor | None = None,
    ) -> TrunkOutput:
        """Return the encoder's output and the outputs of its blocks from index `keep_from` on. mask_BN None: nothing is masked.
        `features_BND`, if given, is read instead of embedding `inputs`. Prefix tokens such as CLS take part in the attention and are
        then cut off. `channel_mask_BD`: True at channels of the embedded input that are 0; only speech's front-end has such masks.
        `segments`: the samples that share a row; only text's front-end reads them. `only_M`: the positions at which x is wanted, numbered
        sample after sample as in Masks.masked_index_M; the last block computes at these alone, and x has the shape (1, M, D). None: all.
        """
        optional = {"channel_mask_BD": channel_mask_BD, "segments": segments}
        given = {name: value for name, value in optional.items() if value is not None}
        prefix = self.frontend.num_prefix_tokens
        front, _, x_BSD, layers = self._run(inputs, mask_BN, padding_mask_BN, keep_from, features_BND, only_M=only_M, **given)
        own = [LayerOutput(layer.ffn_SBD[prefix:], layer.block_SBD[prefix:]) for layer in layers]
        return TrunkOutput(x_BSD if only_M is not None else x_BSD[:, prefix:], own, front.features_BND)

    def hidden_states(self, inputs: Tensor, padding_mask_BN: Tensor | None) -> list[Tensor]:
        """Return the encoder's input, then the output of each block, without a mask. Item i is the output of block i, counted from 1.
        Prefix tokens such as CLS stay. The final norm of pre-LN blocks is not applied.

        Shapes: each (B, S, D) = (batch, sequence with prefix tokens, channels).
        """
        _, chosen, _, layers = self._run(inputs, None, padding_mask_BN, 0, None)
        return [chosen.x_BSD, *(layer.block_SBD.transpose(0, 1) for layer in layers)]

    def _run(
        self,
        inputs: Tensor,
        mask_BN: Tensor | None,
        padding_mask_BN: Tensor | None,
        keep_from: int,
        features_BND: Tensor | None,
        *,
        only_M: Tensor | None = None,
        **given: Any,
    ) -> tuple[FrontendOutput, EncoderInput, Tensor, list[LayerOutput]]:
        """Return the outputs of front-end and selection, then those of the encoder. Arguments as for forward(). `given`: those that
        only one front-end has."""
        front = self.frontend(inputs, mask_BN, padding_mask_BN, features_BND, **given)
        chosen = self.select(front, mask_BN, padding_mask_BN)
        (B, S, _), prefix = chosen.x_BSD.shape, self.frontend.num_prefix_tokens
        subset = None if only_M is None else PositionSubset.of(only_M, B, S - prefix, prefix)
        optional = {"segment_BS": chosen.segment_BS, "subset": subset}
        x_BSD, layers = self.encoder(chosen.x_BSD, chosen.padding_mask_BS, chosen.bias_LHSS, keep_from, **optional)
        return front, chosen, x_BSD, layers
