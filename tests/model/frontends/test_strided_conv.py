"""The extractor's convolution as matrix products: equal to torch's, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.frontends.strided_conv import ConvByProducts, StridedConv, tap_groups
from model.init import Init
from tests.model.reference import seeded


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.integers(1, 5), st.integers(0, 30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_output_and_gradients_are_those_of_conv1d(
    B: int, C: int, channels: int, kernel: int, stride: int, more: int, has_bias: bool
) -> None:
    draw = seeded(0)
    x = torch.randn(B, kernel + more, C, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, C, kernel, generator=draw, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels, generator=draw, dtype=torch.float64, requires_grad=True) if has_bias else None
    inputs = [x, weight, *([bias] if bias is not None else [])]
    out = ConvByProducts.apply(x, weight, bias, stride, "mm")
    expected = torch.conv1d(x.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    weights = torch.randn(out.shape, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, weights), torch.autograd.grad(expected, inputs, weights))


@pytest.mark.parametrize("products", ["mm", "onednn", "mixed"])
def test_the_layer_computes_the_same_with_each_library(products: str) -> None:
    layer = StridedConv(16, 24, 3, 2, bias=True, init=Init(1))
    layer.products = products  # type: ignore[assignment]
    x = torch.randn(2, 301, 16, generator=seeded(1))
    expected = torch.conv1d(x.transpose(1, 2).double(), layer.weight.double(), layer.bias.double(), 2).transpose(1, 2)
    assert float((layer(x) - expected).abs().max() / expected.abs().max()) <= 1e-6


def test_no_gradient_is_computed_that_is_not_needed() -> None:
    x, layer = torch.randn(2, 31, 4, generator=seeded(1)), StridedConv(4, 3, 3, 2, bias=False, init=Init(1))
    out = layer(x)
    (gradient,) = torch.autograd.grad(out.sum(), [layer.weight])
    assert gradient.shape == layer.weight.shape
    layer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), [x])
    assert gradient.shape == x.shape


def test_taps_are_grouped_stride_by_stride() -> None:
    assert [tuple(taps) for taps in tap_groups(3, 2, 5)] == [(0, 0, 2, 10), (1, 2, 3, 5)]
    assert [tuple(taps) for taps in tap_groups(2, 2, 5)] == [(0, 0, 2, 10)]


def test_in_16_bits_the_gradient_of_the_weights_is_summed_over_recordings_in_float32() -> None:
    layer, x = StridedConv(4, 8, 3, 2, bias=True, init=Init(1)).bfloat16(), torch.rand(64, 41, 4, generator=seeded(1)).bfloat16()
    out = layer(x)
    gradient = torch.rand(out.shape, generator=seeded(2)).bfloat16()
    (found,) = torch.autograd.grad(out, [layer.weight], gradient)
    exact_weight = layer.weight.detach().double().requires_grad_()
    expected = torch.conv1d(x.transpose(1, 2).double(), exact_weight, None, 2).transpose(1, 2)
    (exact,) = torch.autograd.grad(expected, [exact_weight], gradient.double())
    assert float((found - exact).norm() / exact.norm()) < 0.004
