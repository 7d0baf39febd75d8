"""Which kernel computes the attention of each case, and the one of our own: attention on a CPU with dropout or with a learned bias.

torch's fused kernel for the CPU has neither dropout nor a gradient for a bias, and its fallback takes three times as long.

Shapes: S sequence, B batch, H local heads, K head width, n heads of one block of the computation.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.dropout import Draws, Dropout

BLOCK_ENTRIES = 1 << 19
"""Most attention probabilities that are computed at a time: 2 MiB in float32, so that they stay in the processor's cache."""


def attend(qkv_SBHTK: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
    """Return softmax(q k^T / sqrt(K) + mask) v, with dropout on the probabilities. `qkv_SBHTK` holds queries, keys and values (T = 3).
    `mask`: bool, True at keys to attend to, or a bias on the logits; broadcastable to (B, H, S, S).

    Shapes: (sequence, batch, heads, 3, head width) -> (sequence, batch, heads x head width).
    """
    learns_bias = mask is not None and mask.requires_grad and torch.is_grad_enabled()
    if qkv_SBHTK.device.type == "cpu" and (dropout.prob_now or learns_bias):
        return BlockedAttention.apply(qkv_SBHTK, mask, dropout.draws() if dropout.prob_now else None)
    S, B = qkv_SBHTK.shape[:2]
    q_BHSK, k_BHSK, v_BHSK = qkv_SBHTK.permute(3, 1, 2, 0, 4).unbind(0)
    prob = dropout.start()
    mixed_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask, dropout_p=prob)
    return mixed_BHSK.permute(2, 0, 1, 3).reshape(S, B, -1)


class BlockedAttention(torch.autograd.Function):
    """Attention on a CPU, a few heads of one sample at a time. The probabilities are kept for the backward; those that dropout has kept
    are stored with a negative sign, so no mask is stored. The gradients of queries, keys and values are one tensor.

    Source of the backward: FlashAttention (arXiv 2205.14135, algorithm 4), whose D is the row sum of dO * O.
    """

    @staticmethod
    def forward(ctx: Any, qkv_SBHTK: Tensor, mask: Tensor | None, draws: Draws | None) -> Tensor:
        """Return the output (S, B, H x K). `draws`: the random numbers of the dropout; None: no dropout."""
        S, B, H, _, K = qkv_SBHTK.shape
        # one copy of all, since each product would copy its own part
        qkv_TBHSK = qkv_SBHTK.permute(3, 1, 2, 0, 4).clone(memory_format=torch.contiguous_format)
        qkv_TBHSK[0] *= 1 / math.sqrt(K)
        bias, blocks = _as_bias(mask, qkv_SBHTK.dtype), _blocks(B, H, S)
        probs_BHSS, mixed_BHSK = qkv_SBHTK.new_empty(B, H, S, S), qkv_SBHTK.new_empty(B, H, S, K)
        for b, heads in blocks:
            q_nSK, k_nSK, v_nSK = qkv_TBHSK[:, b, heads]
            probs_nSS, logits_nSS = probs_BHSS[b, heads], torch.bmm(q_nSK, k_nSK.transpose(1, 2))
            torch.softmax(logits_nSS if bias is None else logits_nSS.add_(_part(bias, b, heads)), -1, out=probs_nSS)
            kept_nSS = probs_nSS
            if draws:
                kept_nSS = draws.keep(logits_nSS).mul_(probs_nSS)
                probs_nSS.sub_(kept_nSS, alpha=2)
            torch.bmm(kept_nSS, v_nSK, out=mixed_BHSK[b, heads])
        if draws:
            mixed_BHSK *= draws.scale
        ctx.save_for_backward(qkv_TBHSK, probs_BHSS, mixed_BHSK)
        ctx.blocks, ctx.keep_scale = blocks, draws.scale if draws else None
        ctx.bias_shape = mask.shape if mask is not None and mask.requires_grad else None
        return mixed_BHSK.permute(2, 0, 1, 3).reshape(S, B, H * K)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of queries, keys and values together, and of the bias."""
        qkv_TBHSK, probs_BHSS, mixed_BHSK = ctx.saved_tensors
        B, H, S, K = mixed_BHSK.shape
        gradient_BHSK = gradients[0].view(S, B, H, K).permute(1, 2, 0, 3).clone(memory_format=torch.contiguous_format)
        rowsum_BHS1 = (gradient_BHSK * mixed_BHSK).sum(-1, keepdim=True)
        if ctx.keep_scale is not None:
            gradient_BHSK *= ctx.keep_scale
        out_TBHSK = torch.empty_like(qkv_TBHSK)
        # in 16 bits the sum over samples would be rounded
        sum_type = torch.promote_types(qkv_TBHSK.dtype, torch.float32)
        bias_gradient = None if ctx.bias_shape is None else torch.zeros(ctx.bias_shape, dtype=sum_type)
        for b, heads in ctx.blocks:
            q_nSK, k_nSK, v_nSK = qkv_TBHSK[:, b, heads]
            gradient_nSK, probs_nSS, rowsum_nS1 = gradient_BHSK[b, heads], probs_BHSS[b, heads], rowsum_BHS1[b, heads]
            to_logits_nSS = torch.bmm(gradient_nSK, v_nSK.transpose(1, 2))
            if ctx.keep_scale is None:
                kept_nSS = probs_nSS
                to_logits_nSS.sub_(rowsum_nS1).mul_(probs_nSS)
            else:
                kept_nSS = probs_nSS.clamp_max(0).neg_()
                to_logits_nSS.mul_(kept_nSS).addcmul_(probs_nSS.abs(), rowsum_nS1, value=-1)
            torch.bmm(to_logits_nSS, k_nSK, out=out_TBHSK[0, b, heads])
            torch.bmm(to_logits_nSS.transpose(1, 2), q_nSK, out=out_TBHSK[1, b, heads])
            torch.bmm(kept_nSS.transpose(1, 2), gradient_nSK, out=out_TBHSK[2, b, heads])
            if bias_gradient is not None:
                _part(bias_gradient, b, heads).add_(to_logits_nSS)
        out_TBHSK[0] *= 1 / math.sqrt(K)
        own_bias_gradient = None if bias_gradient is None else bias_gradient.to(qkv_TBHSK.dtype)
        return out_TBHSK.permute(3, 1, 2, 0, 4).contiguous(), own_bias_gradient, None


def _blocks(B: int, H: int, S: int) -> list[tuple[int, slice]]:
    """Return the blocks of the computation, in order: (sample, heads). A block has at most BLOCK_ENTRIES probabilities, or one head."""
    step = max(1, min(H, BLOCK_ENTRIES // (S * S)))
    return [(b, slice(head, min(head + step, H))) for b in range(B) for head in range(0, H, step)]


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask as a bias on the logits: 0 at keys to attend to, -inf at others."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


def _part(bias: Tensor, b: int, heads: slice) -> Tensor:
    """Return the part of a bias (1 or B, 1 or H, 1 or S, S) that belongs to these heads of one sample, as a view."""
    of_sample = bias[b if bias.shape[0] > 1 else 0]
    return of_sample[heads] if bias.shape[1] > 1 else of_sample
