"""The student: front-end, encoder and regression head; and the trunk (the first two) that the teacher has too.

Shapes: B batch, S sequence, D hidden, M masked positions.
"""

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from model.batch import Batch
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.init import Init, ReplicatedLinear
from model.layers import ACTIVATIONS, LayerOutput
from model.parallel import Parallel

FrontendBuilder = Callable[[EncoderConfig, Init, Parallel, DropoutStream], nn.Module]
"""Makes a modality's front-end for an encoder: (encoder, init, parallel, stream) -> module."""


class Trunk(nn.Module):
    """Front-end and encoder: what teacher and student share in shape, and what is left for downstream use."""

    def __init__(
        self, config: EncoderConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        self.frontend = build_frontend(config, init.at("frontend"), parallel, stream)
        self.encoder = Encoder(config, init.at("encoder"), parallel, stream)

    def forward(
        self, inputs: Tensor, mask_BS: Tensor | None, padding_mask_BS: Tensor | None, keep_from: int
    ) -> tuple[Tensor, list[LayerOutput]]:
        """Encoder output (B, S, D) and the outputs of blocks `keep_from` on. mask_BS None: nothing is hidden."""
        x_BSD, bias_HSS = self.frontend(inputs, mask_BS, padding_mask_BS)
        return self.encoder(x_BSD, padding_mask_BS, bias_HSS, keep_from)


class RegressionHead(nn.Module):
    """Linear layers d -> 2d -> ... -> d with the activation between; one layer is d -> d. Held whole on every TP rank: it
    sees only masked positions. Source: fairseq data2vec_text.py build_regression_head."""

    def __init__(self, config: EncoderConfig, init: Init) -> None:
        super().__init__()
        D = config.hidden_size
        widths = [D, *[2 * D] * (config.head_layers - 1), D]
        self.layers = nn.ModuleList(
            ReplicatedLinear(n_in, n_out, init.at("layers", i), config.init_std) for i, (n_in, n_out) in enumerate(pairwise(widths))
        )
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_MD: Tensor) -> Tensor:
        """Shapes: (M, D) -> (M, D)."""
        for i, layer in enumerate(self.layers):
            x_MD = layer(x_MD if i == 0 else self.activation(x_MD))
        return x_MD


class Student(nn.Module):
    """Trunk and head. Its forward is what DeepSpeed's engine calls."""

    def __init__(
        self, config: EncoderConfig, build_frontend: FrontendBuilder, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        self.trunk = Trunk(config, build_frontend, init, parallel, stream)
        self.head = RegressionHead(config, init.at("head"))

    def forward(self, batch: Batch) -> Tensor:
        """Predictions (M, D) at the masked positions of the masked input."""
        num_layers = len(self.trunk.encoder.layers)
        x_BSD, _ = self.trunk(batch.inputs, batch.mask_BS, batch.padding_mask_BS, keep_from=num_layers)
        return self.head(take_masked(x_BSD, batch.masked_index_M))


def take_masked(x_BSD: Tensor, masked_index_M: Tensor) -> Tensor:
    """Rows (M, D) of x at flat positions (B, S row-major)."""
    return x_BSD.reshape(-1, x_BSD.shape[-1]).index_select(0, masked_index_M)
