"""Layers whose parameters' gradients are sums over all positions, added up in float32 on a CPU too.

In bf16 torch's CPU kernels of LayerNorm and of embeddings add up these gradients in bf16. A sum over 2,048 positions is then wrong by up to
30 %. On CUDA they add up in float32.

Shapes: D channels, V rows of a table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sums_are_rounded(tensor: Tensor) -> bool:
    """True if torch's kernels would add up gradients of this kind of tensor in 16 bits."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)


def summable(weight: Tensor) -> Tensor:
    """Return the weight in a type in which its gradient is a sum without rounding to 16 bits."""
    return weight.float() if sums_are_rounded(weight) else weight


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm; on a CPU it computes 16-bit tensors in float32."""

    def forward(self, x_D: Tensor) -> Tensor:
        """Normalise each position over its channels. Shapes: (..., D) in and out."""
        if not sums_are_rounded(x_D):
            return super().forward(x_D)
        return F.layer_norm(x_D.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).to(x_D.dtype)


def embedding(ids: Tensor, weight_VD: Tensor, padding_idx: int | None = None) -> Tensor:
    """Return the rows of a table: F.embedding. Shapes: (...) -> (..., D)."""
    if not sums_are_rounded(weight_VD):
        return F.embedding(ids, weight_VD, padding_idx=padding_idx)
    return SummedEmbedding.apply(ids, weight_VD, padding_idx)


class SummedEmbedding(torch.autograd.Function):
    """Rows of a 16-bit table on a CPU; the gradient of a row is added up in float32."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight_VD: Tensor, padding_idx: int | None) -> Tensor:
        """Return the rows (..., D)."""
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding_idx = weight_VD.shape, padding_idx
        return F.embedding(ids, weight_VD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        """Return the gradient of the table. The row of padding has none."""
        (ids,), (gradient_D,) = ctx.saved_tensors, gradients
        rows, place = ids.flatten().unique(return_inverse=True)
        sums = torch.zeros(len(rows), ctx.shape[1]).index_add_(0, place, gradient_D.reshape(-1, ctx.shape[1]).float())
        gradient_VD = gradient_D.new_zeros(ctx.shape).index_copy_(0, rows, sums.to(gradient_D.dtype))
        if ctx.padding_idx is not None:
            gradient_VD[ctx.padding_idx] = 0
        return None, gradient_VD, None
