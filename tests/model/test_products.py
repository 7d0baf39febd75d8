"""Matrix products by oneDNN: equal to torch's, forward and backward, for every shape that a layer sees."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.config import ProductLibrary
from model.init import Init, UniformLinear
from model.parallel import Parallel
from model.products import add_product, linear, product, use_products
from model.tensor_parallel import ColumnLinear, MatrixInit, RowLinear
from tests.model.reference import seeded

SIZES = st.integers(1, 40)


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of what is expected."""
    return float((found.double() - expected.double()).detach().norm() / expected.detach().double().norm())


def with_gradients(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None, products: str) -> list[Tensor]:
    """Return the output and the gradients of all inputs."""
    inputs = [x.detach().requires_grad_() for x in (x_I, weight_OI, bias_O) if x is not None]
    out_O = linear(inputs[0], inputs[1], inputs[2] if bias_O is not None else None, products)  # type: ignore[arg-type]
    weights = torch.rand(out_O.shape, generator=seeded(7)).to(out_O.dtype)
    return [out_O, *torch.autograd.grad((out_O * weights).sum(), inputs)]


@given(st.lists(st.integers(1, 16), min_size=1, max_size=2), SIZES, SIZES, st.booleans())
@settings(max_examples=25, deadline=None)
def test_onednn_equals_mm_forward_and_backward(rows: list[int], inputs: int, outputs: int, has_bias: bool) -> None:
    draw = seeded(0)  # positive numbers: sums in which terms cancel have no small relative error in any library
    x_I, weight_OI = torch.rand(*rows, inputs, generator=draw), torch.rand(outputs, inputs, generator=draw)
    bias_O = torch.rand(outputs, generator=draw) if has_bias else None
    pairs = zip(with_gradients(x_I, weight_OI, bias_O, "onednn"), with_gradients(x_I, weight_OI, bias_O, "mm"), strict=True)
    assert all(relative(found, expected) <= 1e-6 for found, expected in pairs)


@pytest.mark.parametrize("shape", [(512, 768, 3072), (512, 3072, 768), (98, 512, 768)])
def test_onednn_equals_mm_at_the_sizes_of_base(shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    x_I, weight_OI = torch.randn(rows, inputs, generator=seeded(0)), torch.randn(outputs, inputs, generator=seeded(1)) / inputs**0.5
    exact = with_gradients(x_I.double(), weight_OI.double(), None, "mm")
    for products in ("onednn", "mixed", "mm"):
        found = with_gradients(x_I, weight_OI, None, products)
        assert all(relative(one, true) <= 1e-6 for one, true in zip(found, exact, strict=True)), products


def test_views_of_larger_matrices_are_multiplied_as_they_are() -> None:
    whole = torch.randn(50, 64, generator=seeded(0))
    part, other = whole[3:33, 8:24], torch.randn(7, 16, generator=seeded(1))
    torch.testing.assert_close(product(part, other), part @ other.t())
    torch.testing.assert_close(product(other.new_ones(5, 30), part.t()), other.new_ones(5, 30) @ part)
    for products in ("mm", "onednn"):
        out = torch.ones(60, 14)
        add_product(out[10:40, 7:], part, other, products)  # type: ignore[arg-type]
        expected = torch.ones(60, 14)
        expected[10:40, 7:] += part @ other.t()
        torch.testing.assert_close(out, expected)


def test_only_float32_on_a_cpu_goes_to_onednn() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        x_I, weight_OI = torch.ones(3, 4, dtype=dtype), torch.ones(5, 4, dtype=dtype)
        assert linear(x_I, weight_OI, None, "onednn").dtype == dtype
    assert linear(torch.ones(0, 4), torch.ones(5, 4), None, "onednn").shape == (0, 5)


def test_the_layers_of_a_module_take_the_library_and_compute_the_same(parallel: Parallel) -> None:
    init, matrix_init = Init(1), MatrixInit(None)
    layers = [
        ColumnLinear(24, 48, init.at("a"), parallel, matrix_init=matrix_init),
        RowLinear(24, 48, init.at("b"), parallel, matrix_init=matrix_init),
        UniformLinear(24, 48, init.at("c")),
    ]
    x = torch.randn(5, 2, 24, generator=seeded(0))
    for layer in layers:
        found: dict[str, list[Tensor]] = {}
        for products in ("mm", "onednn"):
            use_products(nn.Sequential(layer), products)  # type: ignore[arg-type]
            out = layer(x)
            out = out[0] if isinstance(out, tuple) else out
            gradients = torch.autograd.grad(out.square().sum(), [layer.weight, layer.bias])
            found[products] = [out, *gradients]
            assert out.grad_fn.products == products
        assert all(relative(a, b) <= 1e-6 for a, b in zip(found["onednn"], found["mm"], strict=True))


@pytest.mark.parametrize("products", ["mm", "onednn", "mixed"])
def test_the_backward_reads_the_weights_anew_so_that_gathered_ones_can_be_released_after_the_forward(products: ProductLibrary) -> None:
    x_NI, weight_OI = torch.randn(3, 4, generator=seeded(1)).requires_grad_(), nn.Parameter(torch.randn(5, 4, generator=seeded(2)))
    out_NO = linear(x_NI, weight_OI, None, products)
    weight_OI.data = torch.randn(5, 4, generator=seeded(3))  # as ZeRO-3 does: released, then gathered again into other memory
    (gradient_NI,) = torch.autograd.grad(out_NO.sum(), [x_NI])
    torch.testing.assert_close(gradient_NI, weight_OI.detach().sum(0).expand(3, 4))
