"""Heads: modules that read a trunk's output. No batch and no loss here.

Shapes: M positions, D channels of the trunk, C outputs.
"""

from itertools import pairwise

from torch import Tensor, nn

from model.config import EncoderConfig
from model.init import Init, ReplicatedLinear, UniformLinear
from model.layers import ACTIVATIONS


class MaskedHead(nn.Module):
    """Linear layers of the widths d -> 2d -> ... -> outputs, with the activation between them. Without any layer, the head returns its
    input. Every TP rank holds the whole head, because it runs on masked positions only. Source: fairseq
    data2vec_text.py build_regression_head."""

    def __init__(self, config: EncoderConfig, init: Init, num_outputs: int | None = None) -> None:
        """`num_outputs`: numbers that are predicted at a position. None: as many as the trunk has channels."""
        super().__init__()
        self.layers = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(pairwise(config.head_widths(num_outputs or config.hidden_size))):
            path = init.at("layers", i)
            if config.head_init == "torch":
                self.layers.append(UniformLinear(n_in, n_out, path))
            else:
                self.layers.append(ReplicatedLinear(n_in, n_out, path, config.init_std, truncated=config.block.truncated_init))
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_MD: Tensor) -> Tensor:
        """Return a prediction for each position: the trunk's output after all linear layers. Shapes: (M, D) -> (M, C)."""
        for i, layer in enumerate(self.layers):
            x_MD = layer(x_MD if i == 0 else self.activation(x_MD))
        return x_MD
