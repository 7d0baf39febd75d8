"""What replaces parts of DeepSpeed's engine gives DeepSpeed's own results: weights and gradients bit for bit, norms to 1e-6."""

from typing import Any

import pytest
import torch

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, BY_GATHERS, random_batch, resolved

ODD = ("model.hidden_size=33", "model.ffn_hidden_size=63", "model.num_attention_heads=1")
"""Sizes that are odd, so that the second of two ranks has padding in most shards."""


def update_of(is_ours: bool, other: dict[str, Any]) -> dict[str, Any]:
    """Take an update of two micro-batches, with our gather and reduce-scatter or with DeepSpeed's. Return loss and gradient shards."""
    from model.parallel import init_parallel
    from recipes.engine import overrides, shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    if not is_ours:
        overrides.gather_in_one_copy = lambda parameters: None
    zero = BY_GATHERS | {"reduce_bucket_size": 5000}
    micro = {"train_micro_batch_size_per_gpu": 2}
    recipe, config = resolved(2, 1, zero, other | micro, *ODD)
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    if not is_ours:
        del objective.student.optimizer.__dict__["_DeepSpeedZeroOptimizer_Stage3__avg_scatter_grads"]
    losses = []
    for number in range(2):
        outcome = objective.forward(random_batch(recipe, 2, 10 * number + parallel.dp_rank), 64)
        losses.append(float(outcome.loss))
        backward(objective.student, outcome.loss, 64, parallel.shard_size)
        if number == 0:
            objective.student.step()
    parameters = dict(shards.named_parameters(objective.student))
    gradients = {name: shards.gradient_shard(p)[: shards.shard_range(p)[1]].clone() for name, p in parameters.items()}
    padded = sum(gradients[name].numel() < parameter.ds_tensor.numel() for name, parameter in parameters.items())
    return {"losses": losses, "gradients": gradients, "padded": padded}


@pytest.mark.parametrize("other", [{}, pytest.param(BF16, marks=pytest.mark.slow)], ids=["fp32", "bf16"])
def test_one_copy_per_parameter_gives_the_weights_and_gradients_of_deepspeed_bit_for_bit(other: dict[str, Any]) -> None:
    ours, theirs = (run_distributed(update_of, 2, is_ours, other) for is_ours in (True, False))
    assert ours[1]["padded"] > 5
    for one, other_one in zip(ours, theirs, strict=True):
        assert one["losses"] == other_one["losses"]
        assert [n for n, gradient in one["gradients"].items() if not torch.equal(gradient, other_one["gradients"][n])] == []
    assert any(gradient.any() for gradient in ours[-1]["gradients"].values())


def norms_and_storage(world_size: int, tp_size: int) -> dict[str, Any]:
    """Compute one gradient. Return its norm by DeepSpeed's own function and by ours, and which tensors share memory."""
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, {}, {})
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    backward(objective.student, objective.forward(random_batch(recipe, 8, parallel.dp_rank), 64).loss, 64, parallel.dp_size)
    optimizer = objective.student.optimizer
    arguments = (optimizer.averaged_gradients[0], optimizer.fp16_groups[0])
    parameters = [p for _, p in shards.named_parameters(objective.student)]
    joined = optimizer.flatten(arguments[0])
    result = {
        "own": float(optimizer.get_grad_norm_direct(*arguments)),
        "deepspeed": float(DeepSpeedZeroOptimizer_Stage3.get_grad_norm_direct(optimizer, *arguments)),
        "one set of weights": all(shards.master_shard(p).data_ptr() == shards.compute_shard(p).data_ptr() for p in parameters),
        "gradients in place": joined.data_ptr() == arguments[0][0].data_ptr() and torch.equal(joined, torch.cat(arguments[0])),
    }
    arguments[0][0][0] = float("nan")
    return result | {"of NaN": float(optimizer.get_grad_norm_direct(*arguments))}


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 1), (2, 2)])
def test_without_copies_the_norm_is_deepspeeds_own_and_weights_and_gradients_lie_in_one_place(world_size: int, tp_size: int) -> None:
    for rank in run_distributed(norms_and_storage, world_size, world_size, tp_size):
        assert rank["own"] == pytest.approx(rank["deepspeed"], rel=1e-6) and rank["own"] > 0
        assert rank["one set of weights"] and rank["gradients in place"]
        assert rank["of NaN"] == -1.0


def test_tensors_that_do_not_follow_each_other_are_joined_by_a_copy() -> None:
    from recipes.engine.overrides import _joined

    storage = torch.arange(12.0)
    for parts in ([storage[:3], storage[4:6]], [storage[3:6], storage[:3]], [storage[::2]], [storage[:3], torch.arange(3.0, 6.0)]):
        assert torch.equal(_joined(parts), torch.cat(parts))
        assert _joined(parts).untyped_storage().data_ptr() != storage.untyped_storage().data_ptr()
    assert _joined([storage[2:5], storage[5:9]]).data_ptr() == storage[2:].data_ptr()
