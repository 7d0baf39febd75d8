"""One Transformer block on Megatron's tensor-parallel linear layers: attention over the local heads, FFN, post- or pre-LN.

Shapes: S sequence, B batch, D hidden, H local heads (all heads / TP size), K head width. Blocks are sequence-first, like
Megatron's. No front-end and no rank arithmetic here: the caller passes the process groups.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import attend
from model.config import BlockConfig, EncoderConfig
from model.dropout import Dropout, DropoutStream, DropPath
from model.init import Init
from model.parallel import Parallel
from model.subset import PositionSubset
from model.sums import LayerNorm
from model.tensor_parallel import ColumnLinear, MatrixInit, QueryValueBias, RowLinear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
DROPOUT_SITES = 6  # per block


class LayerOutput(NamedTuple):
    """Two outputs of one block. `ffn_SBD`: the feed-forward branch before dropout and residual addition, after the layer scale if there
    is one. `block_SBD`: the output of the whole block."""

    ffn_SBD: Tensor
    block_SBD: Tensor


def attention_mask(padding_mask_BS: Tensor | None, bias_HSS: Tensor | None, segment_BS: Tensor | None = None) -> Tensor | None:
    """Return the `attn_mask` of scaled_dot_product_attention, from padding (True at padding) and a bias on the logits. Padding only:
    bool, True at keys to attend to, (B, 1, 1, S). With a bias: the bias, -inf at other keys. Neither: None. A sample that is all padding
    attends everywhere, to avoid NaN. `segment_BS`: number of each position's sample in its row, -1 at padding (Segments); positions attend
    to those with their number, so the bool mask is (B, 1, S, S)."""
    if segment_BS is not None:
        keep = (segment_BS[:, :, None] == segment_BS[:, None, :]).unsqueeze(1)
    elif padding_mask_BS is not None:
        keep = (~padding_mask_BS | padding_mask_BS.all(dim=1, keepdim=True))[:, None, None, :]
    else:
        return None if bias_HSS is None else bias_HSS.unsqueeze(0)
    return keep if bias_HSS is None else bias_HSS.unsqueeze(0).masked_fill(~keep, float("-inf"))


class Attention(nn.Module):
    """Multi-head self-attention, with heads split over the tensor-parallel (TP) group. Queries, keys and values are one projection,
    whose rows are ordered (head, q/k/v, width), so a contiguous slice holds whole heads."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, index: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.head_width = D // config.num_attention_heads
        key_bias = config.block.key_bias
        self.qkv = ColumnLinear(D, 3 * D, init.at("qkv"), parallel, matrix_init=_inner_init(config), bias=key_bias)
        self.query_value_bias = None if key_bias else QueryValueBias(D, self.head_width, parallel)
        self.proj = RowLinear(D, D, init.at("proj"), parallel, matrix_init=_residual_init(config, index))
        self.prob_dropout = Dropout(config.attention_dropout, stream, _first_site(index), split=True)

    def forward(self, x_SBD: Tensor, mask: Tensor | None, subset: PositionSubset | None = None) -> Tensor:
        """Return the self-attention of x, after the output projection. `mask` is what attention_mask() returns. `subset`: the positions
        to project; None: all.
        Shapes: x and result (sequence S, batch B, channels); mask broadcastable to (B, local heads, S, S)."""
        S, B, _ = x_SBD.shape
        qkv, _ = self.qkv(x_SBD)
        if self.query_value_bias is not None:
            qkv = self.query_value_bias(qkv)
        mixed_SBD = attend(qkv.view(S, B, -1, 3, self.head_width), mask, self.prob_dropout)
        out_SBD, _ = self.proj(subset.take(mixed_SBD) if subset else mixed_SBD)
        return out_SBD


class FeedForward(nn.Module):
    """The feed-forward layer: two matrices with an activation between them. Its inner channels are split over the tensor-parallel group."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, index: int) -> None:
        super().__init__()
        D, inner = config.hidden_size, config.ffn_hidden_size
        self.fc1 = ColumnLinear(D, inner, init.at("fc1"), parallel, matrix_init=_inner_init(config))
        self.fc2 = RowLinear(inner, D, init.at("fc2"), parallel, matrix_init=_residual_init(config, index))
        self.activation = ACTIVATIONS[config.activation]
        self.activation_dropout = Dropout(config.activation_dropout, stream, _first_site(index) + 2, split=True)

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Apply first matrix, activation, dropout and second matrix to each position. Shapes: (sequence, batch, channels) in and out."""
        hidden, _ = self.fc1(x_SBD)
        out_SBD, _ = self.fc2(self.activation_dropout(self.activation(hidden)))
        return out_SBD


class Block(nn.Module):
    """One Transformer block: attention and feed-forward (FFN), each with a residual addition. Post-LN: h = LN1(x + Attn x), out = LN2(h
    + FFN h). Pre-LN: h = x + Attn(LN1 x), out = h + FFN(LN2 h). Either branch may be scaled per channel and dropped per sample.

    Source: fairseq transformer_layer.py as data2vec configures it; BEiT's block for scale and drop path.
    """

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, index: int) -> None:
        super().__init__()
        site, block = _first_site(index), config.block
        self.normalize_before = block.normalize_before
        self.attention = Attention(config, init.at("attention"), parallel, stream, index)
        self.attention_norm = LayerNorm(config.hidden_size, block.layernorm_epsilon)
        self.attention_scale = build_scale(config.hidden_size, block)
        self.attention_dropout = Dropout(config.hidden_dropout, stream, site + 1)
        self.ffn = FeedForward(config, init.at("ffn"), parallel, stream, index)
        self.ffn_norm = LayerNorm(config.hidden_size, block.layernorm_epsilon)
        self.ffn_scale = build_scale(config.hidden_size, block)
        self.ffn_dropout = Dropout(config.hidden_dropout, stream, site + 3)
        drop_path = block.drop_path * index / max(1, config.num_layers - 1)
        self.attention_path, self.ffn_path = DropPath(drop_path, stream, site + 4), DropPath(drop_path, stream, site + 5)
        self.recomputes = False
        """True: the block keeps only its input for the backward, which computes the rest again. That saves memory and changes no number:
        dropout is a function of counters, so the second time it draws the same masks."""

    def forward(self, x_SBD: Tensor, mask: Tensor | None, subset: PositionSubset | None = None) -> LayerOutput:
        """Run the block: attention, then feed-forward, each with its residual addition and norm. `mask` is what attention_mask()
        returns. `subset`: the positions whose outputs are computed, which attend to all of x; None: all.
        Shapes: x and both outputs (sequence, batch, channels); with a subset the outputs are (positions, 1, channels)."""
        if not (self.recomputes and torch.is_grad_enabled()):
            return self._compute(x_SBD, mask, subset)
        # Inside the block's own hooks: ZeRO-3 may gather the block as a whole, and must have its weights while it is computed again.
        # An early stop would end the second run inside of a submodule, and the hooks behind it would not run.
        return checkpoint(self._compute, x_SBD, mask, subset, use_reentrant=False, preserve_rng_state=False, early_stop=False)

    def _compute(self, x_SBD: Tensor, mask: Tensor | None, subset: PositionSubset | None) -> LayerOutput:
        attended_SBD = self.attention(self.attention_norm(x_SBD) if self.normalize_before else x_SBD, mask, subset)
        x_SBD = subset.take(x_SBD) if subset else x_SBD
        x_SBD = x_SBD + self.attention_path(self.attention_dropout(self.attention_scale(attended_SBD)), subset)
        if not self.normalize_before:
            x_SBD = self.attention_norm(x_SBD)
        ffn_SBD = self.ffn_scale(self.ffn(self.ffn_norm(x_SBD) if self.normalize_before else x_SBD))
        out_SBD = x_SBD + self.ffn_path(self.ffn_dropout(ffn_SBD), subset)
        return LayerOutput(ffn_SBD, out_SBD if self.normalize_before else self.ffn_norm(out_SBD))


class LayerScale(nn.Module):
    """A learned factor for each channel. All start with the same value (Touvron et al. 2021, CaiT, section 2)."""

    def __init__(self, hidden_size: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((hidden_size,), start))

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Multiply each channel by its learned factor. Shapes: (..., channels) in and out."""
        return x_SBD * self.weight


def build_scale(hidden_size: int, block: BlockConfig) -> nn.Module:
    """Return the module that scales a residual branch: a LayerScale, or an identity if block.layer_scale is None."""
    return nn.Identity() if block.layer_scale is None else LayerScale(hidden_size, block.layer_scale)


def _first_site(index: int) -> int:
    return 1 + index * DROPOUT_SITES


def _inner_init(config: EncoderConfig) -> MatrixInit:
    return MatrixInit(config.init_std, config.block.truncated_init)


def _residual_init(config: EncoderConfig, index: int) -> MatrixInit:
    scale = 1 / math.sqrt(2 * (index + 1)) if config.block.depth_scaled_init else 1.0
    return MatrixInit(config.init_std, config.block.truncated_init, scale)
