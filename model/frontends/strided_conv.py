"""A convolution over time on tensors with channels last, and its products on a CPU.

On a CPU the backward of torch's convolution takes up to eight times as long as the forward. Matrix products run at full speed in both.

Shapes: B batch, T frames in, N frames out, C channels in, O channels out, k taps, s stride.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ProductLibrary
from model.init import Init
from model.products import HasProducts, add_product, for_weights
from model.sums import sums_are_rounded


class StridedConv(HasProducts, nn.Conv1d):
    """A convolution over time on tensors with channels last, as LayerNorm needs them. Kaiming-normal weights."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, init: Init) -> None:
        self._init = init
        super().__init__(in_channels, channels, kernel, stride, bias=bias)

    def reset_parameters(self) -> None:
        """Write the initial values. nn.Conv1d's constructor calls this method. Later no whole parameter can be written: DeepSpeed's
        zero.Init partitions them when the constructor returns."""
        fan_in = self.weight[0].numel()
        self._init.at("weight").fill_normal(self.weight.data, math.sqrt(2 / fan_in))
        if self.bias is not None:
            self._init.at("bias").fill_uniform(self.bias.data, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Convolve over time, without padding. Shapes: (batch, frames in, channels in) -> (batch, fewer frames, channels)."""
        if x_BTC.device.type == "cpu" and self.in_channels > 1:  # products of a single channel are too narrow
            return ConvByProducts.apply(x_BTC, self.weight, self.bias, self.stride[0], self.products)
        # conv2d has kernels for channels-last memory, conv1d has none; so this makes no transposed copies
        x_BC1T = x_BTC.transpose(1, 2).unsqueeze(2)
        return F.conv2d(x_BC1T, self.weight.unsqueeze(2), self.bias, (1, self.stride[0])).squeeze(2).transpose(1, 2)


class Taps(NamedTuple):
    """At most s neighbouring taps of the kernel, for which the convolution is one product. Frames are grouped s by s into rows of s * C
    numbers. The output n reads the first `width` numbers of the row n + `row`."""

    row: int
    first: int
    last: int
    width: int


def tap_groups(kernel: int, stride: int, channels: int) -> Iterator[Taps]:
    """Yield the taps of a kernel, stride by stride."""
    for row, first in enumerate(range(0, kernel, stride)):
        last = min(first + stride, kernel)
        yield Taps(row, first, last, (last - first) * channels)


class ConvByProducts(torch.autograd.Function):
    """A convolution over time as matrix products of strided views: no frame is copied."""

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_OCk: Tensor, bias_O: Tensor | None, stride: int, products: ProductLibrary) -> Tensor:
        """Return the convolution (B, N, O)."""
        x_BTC = x_BTC.contiguous()
        ctx.save_for_backward(x_BTC, weight_OCk)
        ctx.stride, ctx.products, ctx.has_bias = stride, products, bias_O is not None
        kernel = weight_OCk.shape[2]
        N = (x_BTC.shape[1] - kernel) // stride + 1
        out_BNO = x_BTC.new_zeros(len(x_BTC), N, len(weight_OCk))
        if bias_O is not None:
            out_BNO += bias_O
        for taps in tap_groups(kernel, stride, x_BTC.shape[2]):
            weight_OI = _matrix(weight_OCk, taps)
            for x_TC, out_NO in zip(x_BTC, out_BNO, strict=True):
                add_product(out_NO, _rows(x_TC, stride, taps, N), weight_OI, products)
        return out_BNO

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input, weights and bias."""
        x_BTC, weight_OCk = ctx.saved_tensors
        stride, needed, (channels, C, kernel) = ctx.stride, ctx.needs_input_grad, weight_OCk.shape
        gradient_BNO = gradients[0].contiguous()
        N = gradient_BNO.shape[1]
        x_gradient = torch.zeros_like(x_BTC) if needed[0] else None
        weight_gradient = torch.zeros_like(weight_OCk) if needed[1] else None
        sum_type = torch.float32 if sums_are_rounded(gradient_BNO) else gradient_BNO.dtype  # of the sum over recordings
        for taps in tap_groups(kernel, stride, C):
            weight_IO = _matrix(weight_OCk, taps).t()
            own = gradient_BNO.new_zeros(channels, taps.width, dtype=sum_type)
            for number, gradient_NO in enumerate(gradient_BNO):
                if weight_gradient is not None:
                    add_product(own, gradient_NO.t(), _rows(x_BTC[number], stride, taps, N).t(), for_weights(ctx.products))
                if x_gradient is not None:
                    add_product(_rows(x_gradient[number], stride, taps, N), gradient_NO, weight_IO, ctx.products)
            if weight_gradient is not None:
                weight_gradient[:, :, taps.first : taps.last] = own.view(channels, -1, C).transpose(1, 2)
        bias_gradient = gradient_BNO.sum((0, 1)) if ctx.has_bias else None
        return x_gradient, weight_gradient, bias_gradient, None, None


def _matrix(weight_OCk: Tensor, taps: Taps) -> Tensor:
    """Return the weights of some taps as a matrix (O, width)."""
    return weight_OCk[:, :, taps.first : taps.last].transpose(1, 2).reshape(len(weight_OCk), taps.width)


def _rows(x_TC: Tensor, stride: int, taps: Taps, N: int) -> Tensor:
    """Return the numbers that the N outputs read for some taps, as a view (N, width) of the frames of one sample."""
    row = stride * x_TC.shape[1]
    return x_TC.as_strided((N, taps.width), (row, 1), x_TC.storage_offset() + taps.row * row)
