"""The head of a supervised task: what turns the trunk's output into one value or several for each sample, or for each position.

Shapes: B batch, S sequence with prefix tokens, N positions of the samples themselves, D channels of the trunk, C outputs.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from model.config import EncoderConfig, HeadConfig
from model.dropout import Dropout, DropoutStream
from model.init import Init, ReplicatedLinear
from model.sums import LayerNorm

HEAD_SITE = 1 << 16
"""Number of the head's first place of dropout; the encoder's are smaller."""


class TaskHead(nn.Module):
    """Norm, linear layers and dropout of a task's head, as HeadConfig describes them. Every TP rank holds the whole head, and draws the
    same dropout. Sources: fairseq RobertaClassificationHead, wav2vec2_asr.py, BEiT modeling_finetune.py; transformers' heads of data2vec
    compute the same."""

    def __init__(self, config: HeadConfig, encoder: EncoderConfig, num_outputs: int, init: Init, stream: DropoutStream) -> None:
        super().__init__()
        widths = config.widths(encoder.hidden_size, num_outputs)
        self.norm = LayerNorm(encoder.hidden_size, encoder.block.layernorm_epsilon) if config.norm else nn.Identity()
        self.layers = nn.ModuleList(
            ReplicatedLinear(n_in, n_out, init.at("layers", number), config.init_std, truncated=False)
            for number, (n_in, n_out) in enumerate(pairwise(widths))
        )
        self.dropouts = nn.ModuleList(Dropout(config.dropout, stream, site=HEAD_SITE + number) for number in range(len(self.layers)))
        self.has_tanh = config.hidden == "tanh"

    def forward(self, x_D: Tensor) -> Tensor:
        """Return the outputs of vectors: (..., D) -> (..., C)."""
        x_D = self.norm(x_D)
        for number, (dropout, layer) in enumerate(zip(self.dropouts, self.layers, strict=True)):
            if number and self.has_tanh:
                x_D = torch.tanh(x_D)
            x_D = layer(dropout(x_D))
        return x_D


def mean_over_positions(x_BND: Tensor, padding_mask_BN: Tensor | None) -> Tensor:
    """Return the mean over the positions that are not padding; 0 for a sample that is all padding. Shapes: (B, N, D) -> (B, D)."""
    if padding_mask_BN is None:
        return x_BND.mean(1)
    padding_mask_BN1 = padding_mask_BN.unsqueeze(-1)
    return x_BND.masked_fill(padding_mask_BN1, 0.0).sum(1) / (~padding_mask_BN1).sum(1).clamp(min=1)
