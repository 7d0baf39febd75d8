"""The Transformer encoder of student and teacher: blocks, and the outputs of each. Knows no mask, head or modality.

Shapes: B batch, S sequence, D hidden, H local heads.
"""

from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.init import Init
from model.layers import Block, LayerOutput, attention_mask
from model.parallel import Parallel


class Encoder(nn.Module):
    """config.num_layers blocks, with a final LN where they are pre-LN."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config, init.at("layers", i), parallel, stream, i) for i in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon) if config.normalize_before else nn.Identity()

    def forward(
        self, x_BSD: Tensor, padding_mask_BS: Tensor | None, bias_HSS: Tensor | None, keep_from: int
    ) -> tuple[Tensor, list[LayerOutput]]:
        """Run the blocks; return the last one's output (B, S, D), normed if pre-LN, and the outputs of the blocks from
        number `keep_from` on, sequence-first as blocks are.

        Shapes: padding_mask (B, S) bool, True at padding; bias (H, S, S) added to the attention logits.
        """
        mask = attention_mask(padding_mask_BS, None if bias_HSS is None else bias_HSS.to(x_BSD.dtype))
        x_SBD = x_BSD.transpose(0, 1).contiguous()  # the one place where the layout changes
        kept = []
        for number, block in enumerate(self.layers):
            output = block(x_SBD, mask)
            x_SBD = output.block_SBD
            if number >= keep_from:
                kept.append(output)
        return self.final_norm(x_SBD).transpose(0, 1), kept
