"""The Transformer encoder of student and teacher: blocks, and the outputs of each. No mask, head or modality here.

Shapes: B batch, S sequence, D hidden, H local heads, L 1 or the number of blocks.
"""

from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream, is_dropped
from model.init import Init
from model.layers import Block, LayerOutput, attention_mask
from model.parallel import Parallel
from model.subset import PositionSubset
from model.sums import LayerNorm


class Encoder(nn.Module):
    """The stack of config.num_layers Transformer blocks, and a final LayerNorm if the blocks are pre-LN."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream) -> None:
        super().__init__()
        block = config.block
        self.layers = nn.ModuleList(Block(config, init.at("layers", i), parallel, stream, i) for i in range(config.num_layers))
        self.final_norm = LayerNorm(config.hidden_size, block.layernorm_epsilon) if block.normalize_before else nn.Identity()
        self.layerdrop, self.stream = block.layerdrop, stream
        self.skips_final_norm = False
        """True: the output of the last block is returned as it is, and final_norm gets no gradient."""

    def forward(
        self,
        x_BSD: Tensor,
        padding_mask_BS: Tensor | None,
        bias_LHSS: Tensor | None,
        keep_from: int,
        *,
        segment_BS: Tensor | None = None,
        subset: PositionSubset | None = None,
    ) -> tuple[Tensor, list[LayerOutput]]:
        """Run the blocks. Return the last block's output, with the final LayerNorm if pre-LN, and the outputs of the blocks from index
        `keep_from` on. A block that layer drop skips in training has no such output. `subset`: the positions at which the last block's
        output is computed; None: all.

        Shapes: x and the first result (B, S, D) = (batch, sequence, channels), with a subset of M positions (1, M, D); the outputs of
        single blocks (S, B, D). padding_mask (B, S) bool, True at padding. bias (L, heads, S, S) is added to the attention logits; L is
        1 (the same for all blocks) or the number of blocks. segment (B, S): number of each position's sample in its row, if rows hold
        several samples.
        """
        biases = [None] if bias_LHSS is None else bias_LHSS.to(x_BSD.dtype).unbind(0)
        masks = [attention_mask(padding_mask_BS, bias_HSS, segment_BS) for bias_HSS in biases]
        x_SBD = x_BSD.transpose(0, 1).contiguous()  # the one place where the layout changes
        kept = []
        for number, block in enumerate(self.layers):
            chosen = subset if number == len(self.layers) - 1 else None
            if self.training and self.layerdrop and is_dropped(self.stream, self.layerdrop, number):
                x_SBD = _skip(block, x_SBD)
                x_SBD = chosen.take(x_SBD) if chosen else x_SBD
                continue
            output = block(x_SBD, masks[number % len(masks)], chosen)
            x_SBD = output.block_SBD
            if number >= keep_from:
                kept.append(output)
        return (x_SBD if self.skips_final_norm else self.final_norm(x_SBD)).transpose(0, 1), kept


def _skip(block: nn.Module, x_SBD: Tensor) -> Tensor:
    """Return x unchanged, for a block that is skipped. The block still runs, on the first position only, and 0 times its output is added
    to x. So its weights get the gradient 0.

    ZeRO-3 records the order in which weights are gathered. It also keeps the last gradient of a weight that gets none. If the block were
    not called at all, that order would change and an old gradient would be used.
    """
    return x_SBD + 0.0 * block(x_SBD[:1], None).block_SBD
