"""The regression loss compared with its formula: 0.5 e^2 / beta below beta, |e| - 0.5 beta above, e^2 if beta is 0."""

import math

import pytest
import torch
from torch import Tensor

from model.config import LossConfig
from model.loss import regression_loss
from model.student import take_masked


def pair(M: int = 7, D: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(M, D, generator=generator), 3 * torch.randn(M, D, generator=generator)


def by_formula(prediction: Tensor, target: Tensor, beta: float) -> float:
    total = 0.0
    for e in (prediction - target).abs().flatten().tolist():
        total += e * e if beta == 0 else (0.5 * e * e / beta if e < beta else e - 0.5 * beta)
    return total


@pytest.mark.parametrize("beta", [4.0, 2.0, 0.25, 0.0])
def test_loss_is_the_published_formula_summed(beta: float) -> None:
    prediction, target = pair()
    errors = (prediction - target).abs()
    assert beta == 0 or (bool((errors < beta).any()) and bool((errors > beta).any())), "both branches"
    loss = regression_loss(prediction, target, LossConfig(beta=beta, scale=1.0))
    assert float(loss) == pytest.approx(by_formula(prediction, target, beta), rel=1e-5)


@pytest.mark.parametrize("beta", [4.0, 0.0])
@pytest.mark.parametrize(("scale", "factor"), [(None, 1 / math.sqrt(6)), (0.25, 0.25)])
def test_scale_multiplies_and_none_is_one_over_root_of_width(beta: float, scale: float | None, factor: float) -> None:
    prediction, target = pair()
    whole = regression_loss(prediction, target, LossConfig(beta=beta, scale=1.0))
    assert float(regression_loss(prediction, target, LossConfig(beta=beta, scale=scale))) == pytest.approx(factor * float(whole), rel=1e-6)


@pytest.mark.parametrize("beta", [2.0, 0.0])
@pytest.mark.parametrize("scale", [1.0, 0.25, None])
def test_mean_over_channels_is_the_sum_divided_by_the_width(beta: float, scale: float | None) -> None:
    """Vision: over positions it is still a sum, so that micro-batches add up."""
    prediction, target = pair()
    whole = regression_loss(prediction, target, LossConfig(beta=beta, scale=scale))
    mean = regression_loss(prediction, target, LossConfig(beta=beta, scale=scale, channels="mean"))
    assert float(mean) == pytest.approx(float(whole) / 6, rel=1e-6)
    if scale == 1.0:
        per_position = (by_formula(prediction[i : i + 1], target[i : i + 1], beta) / 6 for i in range(7))
        assert float(mean) == pytest.approx(sum(per_position), rel=1e-5)


def test_loss_of_parts_adds_up() -> None:
    """Summed, not averaged: micro-batches of any size add up to the update."""
    prediction, target = pair()
    parts = [regression_loss(p, t, LossConfig()) for p, t in zip(prediction.split([2, 5]), target.split([2, 5]), strict=True)]
    assert float(sum(parts)) == pytest.approx(float(regression_loss(prediction, target, LossConfig())), rel=1e-6)


@pytest.mark.parametrize("beta", [4.0, 0.0])
def test_without_masked_positions_the_loss_is_0(beta: float) -> None:
    prediction, target = pair(M=0)
    prediction.requires_grad_()
    loss = regression_loss(prediction, target, LossConfig(beta=beta))
    loss.backward()
    assert float(loss) == 0.0


def test_unmasked_targets_do_not_matter_and_masked_ones_do() -> None:
    target_BSD = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    index_M = torch.tensor([1, 4, 7])
    prediction_MD, _ = pair(M=3)

    def loss(targets: Tensor) -> float:
        return float(regression_loss(prediction_MD, take_masked(targets, index_M), LossConfig()))

    before = loss(target_BSD)
    for position in range(10):
        changed = target_BSD.clone()
        changed.view(10, 6)[position] += 1.0
        assert (loss(changed) == before) == (position not in (1, 4, 7))


@pytest.mark.parametrize("beta", [4.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_is_compared_in_float32(beta: float, dtype: torch.dtype) -> None:
    prediction, target = (100 * tensor for tensor in pair(M=50))
    config = LossConfig(beta=beta)
    loss = regression_loss(prediction.to(dtype), target, config)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, regression_loss(prediction.to(dtype).float(), target, config), atol=0, rtol=0)


def test_gradient_reaches_the_prediction_in_its_own_dtype() -> None:
    prediction, target = pair()
    half = prediction.bfloat16().requires_grad_()
    regression_loss(half, target, LossConfig(beta=0)).backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), 2 * (half.detach().float() - target), rtol=1e-2, atol=1e-2)
