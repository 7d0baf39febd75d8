"""Vision front-end: pixels -> masked patches behind a CLS vector, and the relative position bias. It draws no mask and has no
absolute positions.

Shapes: B batch, C colours, H W pixels of a side (of an image), N patches row by row, S = N + 1 with CLS first, D hidden, L
tables; in a bias H is the local heads.
"""

import torch
from torch import Tensor, nn

from model.config import EncoderConfig, Shares
from model.dropout import DropoutStream
from model.frontends.config import VisionFrontendConfig
from model.frontends.output import Frontend, FrontendOutput
from model.init import Init
from model.parallel import Parallel
from model.positions import PatchBias

VECTOR_INIT_STD = 0.02
"""Std of the CLS and mask vectors if encoder.init_std is None: that means 1/sqrt(fan_in), and a vector has no fan-in. BEiT's value."""


class VisionFrontend(Frontend):
    """Patch embedding [features] -> mask vector -> CLS in front; and a bias on the attention logits, whose initial value is 0.

    Source: BEiT as data2vec_vision uses it (modeling_cyclical.py).
    """

    num_prefix_tokens = 1

    def __init__(self, config: VisionFrontendConfig, encoder: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream) -> None:
        super().__init__()
        D, vector_std = encoder.hidden_size, VECTOR_INIT_STD if encoder.init_std is None else encoder.init_std
        self.patches = PatchEmbedding(config, D, init.at("patches"), encoder.init_std)
        self.cls_vector = nn.Parameter(torch.empty(D))
        self.mask_vector = nn.Parameter(torch.empty(D))
        init.at("cls_vector").fill_truncated(self.cls_vector.data, vector_std)
        init.at("mask_vector").fill_truncated(self.mask_vector.data, vector_std)
        self.relative_bias: nn.Module | None = None
        if config.relative_bias == "shared":
            self.relative_bias = PatchBias(encoder.num_attention_heads, config.grid, parallel)
        elif config.relative_bias == "per_layer":
            self.relative_bias = PatchBiases(
                PatchBias(encoder.num_attention_heads, config.grid, parallel) for _ in range(encoder.num_layers)
            )

    def forward(
        self, pixels_BCHW: Tensor, mask_BN: Tensor | None, padding_mask_BN: Tensor | None, features_BND: Tensor | None = None
    ) -> FrontendOutput:
        """Return the encoder input (B, S, D), the bias (L, H, S, S) if any, and the embedding of every patch. `features_BND`, if
        given, are read in place of the pixels. mask_BN is True where the mask vector replaces a patch. Images have no padding."""
        assert padding_mask_BN is None
        dtype = self.mask_vector.dtype
        if features_BND is None:
            features_BND = self.patches(pixels_BCHW.to(dtype))
        x_BND = features_BND.to(dtype)
        if mask_BN is not None:
            x_BND = torch.where(mask_BN.unsqueeze(-1), self.mask_vector, x_BND)
        x_BSD = torch.cat([self.cls_vector.expand(len(x_BND), 1, -1), x_BND], dim=1)
        bias = None if self.relative_bias is None else self.relative_bias()
        return FrontendOutput(x_BSD, None if bias is None else bias.view(-1, *bias.shape[-3:]), features_BND.detach())

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return the names of the parameters that the teacher copies: all but the bias, which belongs to the blocks."""
        if shares == "nothing":
            return set()
        return {name for name, _ in self.named_parameters() if not name.startswith("relative_bias.")}


class PatchBiases(nn.ModuleList):
    """One bias for each block (BEiT's fine-tuning)."""

    def forward(self) -> Tensor:
        """Shapes: (L, H, S, S)."""
        return torch.stack([table() for table in self])


class PatchEmbedding(nn.Conv2d):
    """One linear map, with bias, of each patch's pixels. Initial values are BEiT's, biases are 0."""

    def __init__(self, config: VisionFrontendConfig, hidden_size: int, init: Init, std: float | None) -> None:
        self._init, self._std = init.at("weight"), std
        super().__init__(config.num_channels, hidden_size, config.patch_size, stride=config.patch_size)

    def reset_parameters(self) -> None:
        """Called by nn.Conv2d's constructor, the only time at which zero.Init allows writing a parameter."""
        self._init.fill_truncated(self.weight.data, self._std)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, N, D)."""
        return super().forward(pixels_BCHW).flatten(2).transpose(1, 2)
