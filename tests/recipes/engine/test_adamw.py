"""The optimizer takes the steps of AdamW with the recipe's numbers. The reference is AdamW written out here, parameter by parameter."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import NO_THRESHOLD, random_batch, resolved

BETAS, EPS, DECAY, CLIP = (0.7, 0.8), 1e-3, 0.5, 1.0
RATES = (0.02, 0.01, 0.03)
"""Learning rates, set before each of the three updates."""
SETTINGS = (
    *(f"optim.betas={BETAS[0]},{BETAS[1]}", f"optim.eps={EPS}", f"optim.weight_decay={DECAY}", f"optim.clip_norm={CLIP}"),
    "optim.lr=9",  # the optimizer is built with this rate and must never use it
)
MASKED = 64
"""The count that divides the loss; any number works."""
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}


def largest_errors(world_size: int, tp_size: int, zero: dict[str, Any], decays_all: bool) -> dict[str, float]:
    """Take three updates. Return for each parameter's shard on this rank the largest difference from the reference, relative to its
    change."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward, set_learning_rate
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, zero, {}, *SETTINGS, f"optim.decay_norms_and_biases={str(decays_all).lower()}")
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    parameters = dict(shards.named_parameters(objective.student))
    weights = {name: shards.master_shard(p).double().clone() for name, p in parameters.items()}
    first, norms = {name: weight.clone() for name, weight in weights.items()}, []
    moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in weights.items()}
    for step, rate in enumerate(RATES, 1):
        batch = random_batch(recipe, 8 // parallel.dp_size, 10 * step + parallel.dp_rank)
        set_learning_rate(objective.student, rate, step - 1)
        backward(objective.student, objective.forward(batch, MASKED).loss, MASKED, objective.parallel.dp_size)
        gradients = {name: shards.gradient_shard(p).double().clone() for name, p in parameters.items()}
        counted = [gradient for name, gradient in gradients.items() if parallel.tp_rank == 0 or shards.is_split(parameters[name])]
        square = torch.stack([gradient.square().sum() for gradient in counted]).sum()
        dist.all_reduce(square)  # over all ranks; a parameter that every tensor-parallel rank holds whole counts once
        norms.append(float(square.sqrt()))
        objective.student.step()
        for name, gradient in gradients.items():
            decay = DECAY if decays_all or len(parameters[name].ds_shape) > 1 else 0.0
            adamw(weights[name], gradient / max(1.0, norms[-1] / CLIP), moments[name], rate, decay=decay, step=step)
    assert min(norms) > 2 * CLIP, "gradients must be clipped"
    return {
        name: float((shards.master_shard(p) - weights[name]).abs().max() / (weights[name] - first[name]).abs().max().clamp(min=1e-9))
        for name, p in parameters.items()
    }


def adamw(weight: Any, gradient: Any, moments: tuple[Any, Any], rate: float, *, decay: float, step: int) -> None:
    """Take one step in place. Source: Loshchilov and Hutter 2019, algorithm 2, with the rate as the schedule's multiplier."""
    weight.mul_(1 - rate * decay)
    for moment, value, beta in zip(moments, (gradient, gradient.square()), BETAS, strict=True):
        moment.mul_(beta).add_(value, alpha=1 - beta)
    mean, square = (moment / (1 - beta**step) for moment, beta in zip(moments, BETAS, strict=True))
    weight.sub_(rate * mean / (square.sqrt() + EPS))


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero", "decays_all"),
    [(1, 1, {}, True), (1, 1, {}, False), (1, 1, OFFLOAD, False), (2, 1, NO_THRESHOLD, False), (2, 2, {}, False)],
    ids=["all_decayed", "matrices_decayed", "offload", "dp2", "tp2"],
)
def test_each_parameter_takes_the_steps_of_adamw_with_its_own_decay_and_the_current_rate_to_1e_4(
    world_size: int, tp_size: int, zero: dict[str, Any], decays_all: bool
) -> None:
    for errors in run_distributed(largest_errors, world_size, world_size, tp_size, zero, decays_all, timeout=280):
        kinds = {("norm" in name, name.endswith("bias")) for name in errors}
        assert kinds == {(False, False), (False, True), (True, False), (True, True)}, "matrices, biases, weights and biases of norms"
        assert not {name: error for name, error in errors.items() if not error < 1e-4}
