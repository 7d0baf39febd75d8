"""The CPU optimizer of offloaded runs: AdamW, whatever it has done before."""

from typing import Any

import pytest
import torch

from tests.distributed import run_distributed

SIZE, STEPS = 1000, 40
NUMBERS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6}


def resumed_and_whole(counted: bool) -> float:
    """Largest difference of the weights after STEPS, between one optimizer and one per step that gets the state of the one before."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    from recipes.train.cpu_adam import build_cpu_adam

    def build(weight: torch.Tensor) -> torch.optim.Optimizer:
        groups = [{"params": [weight], "weight_decay": 0.1}]
        return build_cpu_adam(groups, **NUMBERS) if counted else DeepSpeedCPUAdam(groups, adamw_mode=True, **NUMBERS)

    whole, resumed = (torch.linspace(-1, 1, SIZE, requires_grad=True) for _ in range(2))
    optimizer, other = build(whole), build(resumed)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        gradient = torch.randn(SIZE, generator=generator)
        whole.grad, resumed.grad = gradient, gradient.clone()
        optimizer.step()
        other.step()
        state, other = other.state[resumed], build(resumed)
        other.state[resumed] = state
    return float((whole - resumed).abs().max())


def test_a_resumed_optimizer_takes_the_same_steps_bit_for_bit_which_deepspeeds_own_does_not() -> None:
    assert run_distributed(resumed_and_whole, 1, True)[0] == 0.0
    assert run_distributed(resumed_and_whole, 1, False)[0] > 0.0, "then build_cpu_adam is no longer needed"


def counted_against_torch() -> float:
    """Largest difference of the weights to torch's AdamW in float64 after STEPS, two groups with weight decays of their own."""
    from recipes.train.cpu_adam import build_cpu_adam

    dtypes = (torch.float32, torch.float64)
    ours, theirs = ([torch.linspace(-1, 1, SIZE, dtype=dtype, requires_grad=True) for _ in range(2)] for dtype in dtypes)
    optimizers = [
        build([{"params": [weights[0]], "weight_decay": 0.1}, {"params": [weights[1]], "weight_decay": 0.0}], **NUMBERS)
        for build, weights in ((build_cpu_adam, ours), (torch.optim.AdamW, theirs))
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(SIZE, generator=generator)
            other.grad = mine.grad.double()
        for optimizer in optimizers:
            optimizer.step()
    return max(float((mine - other).abs().max()) for mine, other in zip(ours, theirs, strict=True))


def test_it_is_adamw_to_1e_5() -> None:
    assert run_distributed(counted_against_torch, 1)[0] == pytest.approx(0.0, abs=1e-5)
