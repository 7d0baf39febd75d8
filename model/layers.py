"""One Transformer block on Megatron's tensor-parallel linear layers: attention over the local heads, FFN, post- or pre-LN.

Shapes: S sequence, B batch, D hidden, H local heads (all heads / TP size), K head width. Blocks are sequence-first, as
Megatron's are. Holds no front-end and no rank arithmetic: the groups come in from outside.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import Dropout, DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.tensor_parallel import ColumnLinear, RowLinear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
DROPOUT_SITES = 4  # per block


class LayerOutput(NamedTuple):
    """What one block made: `ffn_SBD` is the second FFN matrix's output before dropout and residual, `block_SBD` the
    block's output."""

    ffn_SBD: Tensor
    block_SBD: Tensor


def attention_mask(padding_mask_BS: Tensor | None, bias_HSS: Tensor | None) -> Tensor | None:
    """The mask that scaled_dot_product_attention takes: True = attend where there is only padding, the bias with -inf at
    padded keys where there is a bias. A row that is all padding attends everywhere, so that no NaN is born."""
    if padding_mask_BS is None:
        return None if bias_HSS is None else bias_HSS.unsqueeze(0)
    keep_BS = ~padding_mask_BS | padding_mask_BS.all(dim=1, keepdim=True)
    keep_B11S = keep_BS[:, None, None, :]
    if bias_HSS is None:
        return keep_B11S
    return bias_HSS.unsqueeze(0).masked_fill(~keep_B11S, float("-inf"))


class Attention(nn.Module):
    """Multi-head self-attention, heads split over the TP group. Rows of the fused projection are ordered (head, q/k/v,
    width), so a contiguous TP slice holds whole heads."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, first_site: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.head_width = D // config.num_attention_heads
        self.qkv = ColumnLinear(D, 3 * D, init.at("qkv"), config.init_std, parallel)
        self.proj = RowLinear(D, D, init.at("proj"), config.init_std, parallel)
        self.prob_dropout = Dropout(config.attention_dropout, stream, first_site, split=True)

    def forward(self, x_SBD: Tensor, mask: Tensor | None) -> Tensor:
        """Shapes: x (S, B, D), mask broadcastable to (B, H, S, S) -> (S, B, D)."""
        S, B, _ = x_SBD.shape
        qkv, _ = self.qkv(x_SBD)
        q_BHSK, k_BHSK, v_BHSK = qkv.view(S, B, -1, 3, self.head_width).permute(3, 1, 2, 0, 4).unbind(0)
        dropout = self.prob_dropout.start(x_SBD.device)
        mixed_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=dropout)
        out_SBD, _ = self.proj(mixed_BHSK.permute(2, 0, 1, 3).reshape(S, B, -1))
        return out_SBD


class FeedForward(nn.Module):
    """Two matrices with an activation between them, the inner width split over the TP group."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, first_site: int) -> None:
        super().__init__()
        D, inner = config.hidden_size, config.ffn_hidden_size
        self.fc1 = ColumnLinear(D, inner, init.at("fc1"), config.init_std, parallel)
        self.fc2 = RowLinear(inner, D, init.at("fc2"), config.init_std, parallel)
        self.activation = ACTIVATIONS[config.activation]
        self.activation_dropout = Dropout(config.activation_dropout, stream, first_site, split=True)

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Shapes: (S, B, D) -> (S, B, D)."""
        hidden, _ = self.fc1(x_SBD)
        out_SBD, _ = self.fc2(self.activation_dropout(self.activation(hidden)))
        return out_SBD


class Block(nn.Module):
    """Attention and FFN with residuals. Post-LN: h = LN1(x + Attn x), out = LN2(h + FFN h). Pre-LN: x + Attn(LN1 x),
    then x + FFN(LN2 x). Source: fairseq transformer_layer.py as data2vec configures it."""

    def __init__(self, config: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream, index: int) -> None:
        super().__init__()
        site = 1 + index * DROPOUT_SITES
        self.normalize_before = config.normalize_before
        self.attention = Attention(config, init.at("attention"), parallel, stream, site)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention_dropout = Dropout(config.hidden_dropout, stream, site + 1)
        self.ffn = FeedForward(config, init.at("ffn"), parallel, stream, site + 2)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.ffn_dropout = Dropout(config.hidden_dropout, stream, site + 3)

    def forward(self, x_SBD: Tensor, mask: Tensor | None) -> LayerOutput:
        """Shapes: x (S, B, D), mask as Attention takes it."""
        if self.normalize_before:
            x_SBD = x_SBD + self.attention_dropout(self.attention(self.attention_norm(x_SBD), mask))
            ffn_SBD = self.ffn(self.ffn_norm(x_SBD))
            return LayerOutput(ffn_SBD, x_SBD + self.ffn_dropout(ffn_SBD))
        h_SBD = self.attention_norm(x_SBD + self.attention_dropout(self.attention(x_SBD, mask)))
        ffn_SBD = self.ffn(h_SBD)
        return LayerOutput(ffn_SBD, self.ffn_norm(h_SBD + self.ffn_dropout(ffn_SBD)))
