"""Sums over positions in 16 bits on a CPU: as exact as the numbers that are added."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.sums import LayerNorm, embedding
from tests.model.reference import seeded

POSITIONS, D = 4096, 24


def error(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference, relative to that of the exact value."""
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_a_norm_are_as_exact_as_one_number(dtype: torch.dtype) -> None:
    draw = seeded(0)
    x, gradient = torch.randn(POSITIONS, D, generator=draw).to(dtype), (torch.randn(POSITIONS, D, generator=draw) + 0.1).to(dtype)
    norm, exact = LayerNorm(D).to(dtype), torch.nn.LayerNorm(D).double()
    inputs, exact_inputs = [x.requires_grad_(), norm.weight, norm.bias], [x.detach().double().requires_grad_(), exact.weight, exact.bias]
    out, expected = norm(x), exact(exact_inputs[0])
    assert out.dtype == dtype and error(out, expected) < 0.004
    pairs = zip(torch.autograd.grad(out, inputs, gradient), torch.autograd.grad(expected, exact_inputs, gradient.double()), strict=True)
    assert all(error(found, true) < 0.004 for found, true in pairs)


def test_a_token_that_is_everywhere_has_an_exact_gradient() -> None:
    ids = torch.zeros(2, POSITIONS // 2, dtype=torch.int64)
    ids[0, ::3], ids[1, 5] = 2, 1
    weight = torch.randn(5, D, generator=seeded(0)).bfloat16().requires_grad_()
    gradient = torch.rand(2, POSITIONS // 2, D, generator=seeded(1)).bfloat16()
    out = embedding(ids, weight, padding_idx=1)
    assert torch.equal(out, F.embedding(ids, weight))
    (found,) = torch.autograd.grad(out, [weight], gradient)
    exact_weight = weight.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(F.embedding(ids, exact_weight, padding_idx=1), [exact_weight], gradient.double())
    assert error(found, exact) < 0.004 and not found[[1, 3, 4]].any()


def test_float32_is_torchs_own() -> None:
    x, norm = torch.randn(7, D, generator=seeded(0)), LayerNorm(D)
    assert torch.equal(norm(x), F.layer_norm(x, (D,), norm.weight, norm.bias))
    weight = torch.randn(5, D, generator=seeded(0), requires_grad=True)
    assert type(embedding(torch.tensor([1, 2]), weight).grad_fn).__name__ == "EmbeddingBackward0"
