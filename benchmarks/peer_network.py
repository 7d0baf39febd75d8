"""data2vec's networks from torch's own layers, as a common implementation builds them: batch first, nn.Linear with fused q/k/v,
scaled_dot_product_attention with its own dropout, nn.Dropout, nn.Conv1d. It shares only the settings with model/, so that it is an
independent baseline. It reads batches without padding.

Shapes: B batch, S sequence, N positions without prefix tokens, D hidden, H heads, T raw samples or frames, C convolution channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BlockConfig, EncoderConfig
from recipes.config import Recipe

PAD = 1
"""Id of the padding symbol (fairseq). The first token has the position PAD + 1."""
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


class PeerAttention(nn.Module):
    """Self-attention of all heads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.qkv = nn.Linear(D, 3 * D, bias=config.block.key_bias)
        if not config.block.key_bias:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.zeros(D))
        self.proj = nn.Linear(D, D)

    def forward(self, x_BSD: Tensor, mask: Tensor | None) -> Tensor:
        """Attend to all positions. `mask` is added to the logits. Shapes: (batch, sequence, channels) in and out."""
        B, S, D = x_BSD.shape
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BSD, self.qkv.weight, bias).view(B, S, 3, self.num_heads, -1)
        q_BHSK, k_BHSK, v_BHSK = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if mask is None else mask.to(q_BHSK.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout)
        return self.proj(mixed_BHSK.transpose(1, 2).reshape(B, S, D))


class PeerBranch(nn.Module):
    """What follows the layer of a residual branch: its scale, dropout and drop path."""

    def __init__(self, config: EncoderConfig, drop_path: float) -> None:
        super().__init__()
        scale, D = config.block.layer_scale, config.hidden_size
        self.scale = None if scale is None else nn.Parameter(torch.full((D,), scale))
        self.dropout, self.drop_path = nn.Dropout(config.hidden_dropout), drop_path

    def scaled(self, x_BSD: Tensor) -> Tensor:
        """Return x times the learned factor of each channel, if there is one."""
        return x_BSD if self.scale is None else x_BSD * self.scale

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Apply dropout, and drop the branch of whole samples."""
        x_BSD = self.dropout(x_BSD)
        if not (self.training and self.drop_path):
            return x_BSD
        keep_B11 = torch.rand(len(x_BSD), 1, 1, device=x_BSD.device) >= self.drop_path
        return x_BSD * keep_B11 / (1 - self.drop_path)


class PeerBlock(nn.Module):
    """A Transformer block, post-LN or pre-LN."""

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        block, D = config.block, config.hidden_size
        drop_path = block.drop_path * index / max(1, config.num_layers - 1)
        self.is_pre, self.activation = block.normalize_before, ACTIVATIONS[config.activation]
        self.attention, self.attention_branch = PeerAttention(config), PeerBranch(config, drop_path)
        self.fc1, self.fc2 = nn.Linear(D, config.ffn_hidden_size), nn.Linear(config.ffn_hidden_size, D)
        self.ffn_branch, self.activation_dropout = PeerBranch(config, drop_path), nn.Dropout(config.activation_dropout)
        self.attention_norm, self.ffn_norm = _norm(D, block), _norm(D, block)

    def forward(self, x_BSD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the feed-forward branch before dropout, and the block's output. Shapes: each (batch, sequence, channels)."""
        branch = self.attention_branch
        attended_BSD = self.attention(self.attention_norm(x_BSD) if self.is_pre else x_BSD, mask)
        x_BSD = x_BSD + branch(branch.scaled(attended_BSD))
        x_BSD = x_BSD if self.is_pre else self.attention_norm(x_BSD)
        hidden = self.activation_dropout(self.activation(self.fc1(self.ffn_norm(x_BSD) if self.is_pre else x_BSD)))
        ffn_BSD = self.ffn_branch.scaled(self.fc2(hidden))
        x_BSD = x_BSD + self.ffn_branch(ffn_BSD)
        return ffn_BSD, x_BSD if self.is_pre else self.ffn_norm(x_BSD)


class PeerText(nn.Module):
    """Token embedding and positions: a table, or a bias on the logits for each offset."""

    num_prefix = 0
    shared = ("tokens.", "positions.", "norm.")
    """Prefixes of the parameters that the teacher copies, if it shares the front-end."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config: Any = recipe.frontend
        D, self.max_positions = recipe.model.hidden_size, config.max_positions
        self.tokens = nn.Embedding(config.vocab_size, D, padding_idx=PAD)
        self.positions = self.relative_bias = None
        if config.positions == "absolute":
            self.positions = nn.Embedding(config.max_positions + PAD + 1, D, padding_idx=PAD)
        else:
            self.relative_bias = nn.Parameter(torch.zeros(recipe.model.num_attention_heads, 2 * config.max_positions - 1))
        self.norm, self.dropout = _norm(D, recipe.model.block), nn.Dropout(recipe.model.hidden_dropout)

    def forward(self, ids_BS: Tensor, mask_BN: Tensor | None, features: None = None) -> tuple[Tensor, Tensor | None, None]:
        """Embed ids. Return the encoder's input, the bias on the logits (1, H, S, S) or None, and None."""
        x_BSD, steps_S = self.tokens(ids_BS), torch.arange(ids_BS.shape[1], device=ids_BS.device)
        if self.positions is not None:
            x_BSD = x_BSD + self.positions(steps_S + PAD + 1)
        bias = None
        if self.relative_bias is not None:
            bias = self.relative_bias[:, steps_S[None, :] - steps_S[:, None] + self.max_positions - 1].unsqueeze(0)
        return self.dropout(self.norm(x_BSD)), bias, None


class PeerChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, time), as fairseq's Fp32LayerNorm between two TransposeLast."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Normalise each frame. The shape stays."""
        return super().forward(x_BCT.transpose(1, 2)).transpose(1, 2)


class PeerSpeech(nn.Module):
    """Strided convolutions with a norm each (or one after the first), projection, mask vector, and positional convolutions."""

    num_prefix = 0
    shared = ("convs.", "conv_norms.", "feature_norm.", "projection.", "mask_vector", "positions.")

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config: Any = recipe.frontend
        assert not config.conv_bias and config.pos_conv_depth > 1, "the shipped recipes' settings"
        C, D, kernel = config.conv_dim, recipe.model.hidden_size, config.pos_conv_kernel
        shapes = zip((1, *[C] * (len(config.conv_kernels) - 1)), config.conv_kernels, config.conv_strides, strict=True)
        self.convs = nn.ModuleList(nn.Conv1d(n_in, C, width, stride, bias=False) for n_in, width, stride in shapes)
        per_layer = [PeerChannelNorm(C) for _ in self.convs]
        over_time = [nn.GroupNorm(C, C), *(nn.Identity() for _ in self.convs[1:])]
        self.conv_norms = nn.ModuleList(per_layer if config.extractor_norm == "layer" else over_time)
        self.feature_norm, self.projection, self.mask_vector = nn.LayerNorm(C), nn.Linear(C, D), nn.Parameter(torch.rand(D))
        self.positions = nn.ModuleList(
            nn.Conv1d(D, D, kernel, padding=kernel // 2, groups=config.pos_conv_groups) for _ in range(config.pos_conv_depth)
        )
        self.norm, self.dropout = _norm(D, recipe.model.block), nn.Dropout(recipe.model.hidden_dropout)

    def forward(self, x_BT: Tensor, mask_BN: Tensor | None, features_BND: Tensor | None = None) -> tuple[Tensor, None, Tensor]:
        """Embed waveforms, or read `features_BND` in their place. Return the encoder's input, None, and the features."""
        if features_BND is None:
            x_BCT = x_BT.unsqueeze(1)
            for conv, norm in zip(self.convs, self.conv_norms, strict=True):
                x_BCT = F.gelu(norm(conv(x_BCT)))
            features_BND = self.projection(self.feature_norm(x_BCT.transpose(1, 2)))
        x_BND = features_BND
        if mask_BN is not None:
            x_BND = torch.where(mask_BN.unsqueeze(-1), self.mask_vector.to(x_BND.dtype), x_BND)
        y_BDN = x_BND.transpose(1, 2)
        for conv in self.positions:
            y_BND = conv(y_BDN)[:, :, : x_BND.shape[1]].transpose(1, 2)
            y_BDN = F.gelu(F.layer_norm(y_BND, y_BND.shape[-1:])).transpose(1, 2)
        return self.dropout(self.norm(x_BND + y_BDN.transpose(1, 2))), None, features_BND.detach()


class PeerVision(nn.Module):
    """Patch embedding, CLS and mask vectors, and one bias on the logits for each offset of two patches (BEiT)."""

    num_prefix = 1
    shared = ("patches.", "cls_vector", "mask_vector")

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config: Any = recipe.frontend
        assert config.relative_bias == "shared", "the shipped recipes' setting"
        D, grid, size = recipe.model.hidden_size, config.grid, config.patch_size
        self.patches = nn.Conv2d(config.num_channels, D, size, stride=size)
        self.cls_vector, self.mask_vector = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.zeros(D))
        self.relative_bias = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, recipe.model.num_attention_heads))
        self.register_buffer("index_SS", _patch_index(grid), persistent=False)

    def forward(self, pixels: Tensor, mask_BN: Tensor | None, features_BND: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embed images, or read `features_BND` in their place. Return the encoder's input, the bias (1, H, S, S), and the features."""
        if features_BND is None:
            features_BND = self.patches(pixels).flatten(2).transpose(1, 2)
        x_BND = features_BND
        if mask_BN is not None:
            x_BND = torch.where(mask_BN.unsqueeze(-1), self.mask_vector.to(x_BND.dtype), x_BND)
        x_BSD = torch.cat([self.cls_vector.to(x_BND.dtype).expand(len(x_BND), 1, -1), x_BND], dim=1)
        return x_BSD, self.relative_bias[self.index_SS].permute(2, 0, 1).unsqueeze(0), features_BND.detach()


FRONTENDS = {"text": PeerText, "speech": PeerSpeech, "vision": PeerVision}


class PeerTrunk(nn.Module):
    """Front-end and Transformer blocks."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        config = recipe.model
        self.frontend, self.layerdrop = FRONTENDS[recipe.modality](recipe), config.block.layerdrop
        self.layers = nn.ModuleList(PeerBlock(config, index) for index in range(config.num_layers))
        self.final_norm = _norm(config.hidden_size, config.block) if config.block.normalize_before else None

    def forward(
        self, inputs: Tensor, mask_BN: Tensor | None, features_BND: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor | None]:
        """Return the last block's output, both outputs of every block, and the features. Prefix tokens are cut off."""
        x_BSD, bias, features_BND = self.frontend(inputs, mask_BN, features_BND)
        outputs, prefix = [], self.frontend.num_prefix
        for block in self.layers:
            if self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                continue
            ffn_BSD, x_BSD = block(x_BSD, bias)
            outputs.append((ffn_BSD[:, prefix:], x_BSD[:, prefix:]))
        return x_BSD[:, prefix:], outputs, features_BND


def _norm(size: int, block: BlockConfig) -> nn.LayerNorm:
    return nn.LayerNorm(size, block.layernorm_epsilon)


def _patch_index(grid: int) -> Tensor:
    """Return the row of the bias table for each pair (query, key): (S, S) with S = grid^2 + 1. Source: BEiT modeling_finetune.py."""
    across = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
    offsets = across[:, :, None] - across[:, None, :] + grid - 1
    rows, num = (2 * grid - 1) ** 2 + 3, grid * grid + 1
    index = torch.zeros(num, num, dtype=torch.int64)
    index[1:, 1:] = offsets[0] * (2 * grid - 1) + offsets[1]
    index[0, :], index[:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index
