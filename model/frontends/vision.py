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
from model.frontends.pixels import normalise
from model.init import Init
from model.parallel import Parallel
from model.positions import PatchBias

VECTOR_INIT_STD = 0.02
"""Std of the CLS and mask vectors if encoder.init_std is None: that means 1/sqrt(fan_in), and a vector has no fan-in. BEiT's value."""


class VisionFrontend(Frontend):
    """Embeds an image as patches, the encoder's input: patch embedding (its output are the features), mask vector at masked patches, CLS
    vector in front. Its bias on the attention logits starts at 0.

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
        """Embed images: bytes (uint8), which are normalised here, or floats, which are normalised already. Return the encoder's input
        (batch, S, channels), the attention bias (tables, local heads, S, S) or None, and all patches before masking. `features_BND`, if
        given, is read in place of the pixels. mask_BN is True where the mask vector replaces a patch. padding_mask_BN must be None."""
        assert padding_mask_BN is None
        dtype = self.mask_vector.dtype
        if features_BND is None:
            features_BND = self.patches(normalise(pixels_BCHW).to(dtype))
        x_BND = features_BND.to(dtype)
        if mask_BN is not None:
            x_BND = torch.where(mask_BN.unsqueeze(-1), self.mask_vector, x_BND)
        x_BSD = torch.cat([self.cls_vector.expand(len(x_BND), 1, -1), x_BND], dim=1)
        bias = None if self.relative_bias is None else self.relative_bias()
        return FrontendOutput(x_BSD, None if bias is None else bias.view(-1, *bias.shape[-3:]), features_BND.detach())

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return the names of the parameters that the teacher copies: none if `shares` is "nothing", else all but the attention bias,
        which belongs to the blocks."""
        if shares == "nothing":
            return set()
        return {name for name, _ in self.named_parameters() if not name.startswith("relative_bias.")}


class PatchBiases(nn.ModuleList):
    """One table of relative position bias for each block of the encoder (BEiT's fine-tuning)."""

    def forward(self) -> Tensor:
        """Return the attention biases of all blocks, stacked. Shapes: (blocks, local heads, S, S) with S = patches + 1 (CLS)."""
        return torch.stack([table() for table in self])


class PatchEmbedding(nn.Conv2d):
    """Embeds each patch: one linear map of its pixels, with bias. Weights start as in BEiT, biases at 0."""

    def __init__(self, config: VisionFrontendConfig, hidden_size: int, init: Init, std: float | None) -> None:
        self._init, self._std = init.at("weight"), std
        super().__init__(config.num_channels, hidden_size, config.patch_size, stride=config.patch_size)

    def reset_parameters(self) -> None:
        """Write the initial values. nn.Conv2d's constructor calls this method. Later no whole parameter can be written: DeepSpeed's
        zero.Init partitions them when the constructor returns."""
        self._init.fill_truncated(self.weight.data, self._std)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the embedding of each patch, row by row. Shapes: pixels (batch, colours, height, width) -> (batch, patches, channels)."""
        return super().forward(pixels_BCHW).flatten(2).transpose(1, 2)
