"""Dropped layers under ZeRO-3: gradients are those of one rank, are exactly 0 in a dropped layer, and keep nothing of the update before."""

from typing import Any

import pytest
from torch import Tensor

from model.dropout import DropoutStream, is_dropped
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import random_batch, resolved
from tests.recipes.objectives.test_data2vec import split

PROB, NUM_LAYERS = 0.5, 3
THRESHOLDS = {"persistent": {"stage3_param_persistence_threshold": 10**9}, "gathered": {"stage3_param_persistence_threshold": 0}}


def dropped(seed: int, update: int) -> set[int]:
    return {number for number in range(NUM_LAYERS) if is_dropped(DropoutStream(seed, update=update), PROB, number)}


def updates_with_different_drops(seed: int) -> list[int]:
    """Return three consecutive updates. Each of the last two keeps a layer that the previous one drops, and drops a layer that the
    previous one keeps."""
    for start in range(200):
        first, second, third = (dropped(seed, start + i) for i in range(3))
        if first - second and second - first and second - third and third - second:
            return [start, start + 1, start + 2]
    raise AssertionError("no such updates")


def whole_gradients(world_size: int, tp_size: int, zero: dict[str, Any], skips: bool) -> list[dict[str, Tensor]]:
    """Return the gradients of three updates with optimizer steps between them. `skips` False: a dropped layer is not called at all.

    The optimizer is plain SGD. Adam divides a gradient by its size, so rounding of a small gradient would become a large step.
    """
    import torch

    import model.encoder
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    if not skips:
        model.encoder._skip = lambda block, x_SBD: x_SBD
    settings = (f"model.block.layerdrop={PROB}", f"model.num_layers={NUM_LAYERS}")
    recipe, config = resolved(world_size, tp_size, zero, {}, *settings)
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel, optimizer=lambda student: torch.optim.SGD(student.parameters(), lr=0.1))
    found = []
    for update in updates_with_different_drops(recipe.run.seed):
        batch = random_batch(recipe, 8, update)
        rows = 8 // parallel.dp_size
        objective.stream.update = update
        part = split(batch, slice(rows * parallel.dp_rank, rows * (parallel.dp_rank + 1)))
        total = batch.masks.num_masked
        backward(objective.student, objective.forward(part, total).loss, total, parallel.dp_size)
        parameters = shards.named_parameters(objective.student)
        found.append({n: shards.gather_full(p, shards.gradient_shard(p), parallel).clone() for n, p in parameters})
        objective.student.step()
        objective.shadow.update(0.9)
    return found


def layer_of(name: str) -> int | None:
    """Return the number of the block that a parameter belongs to; None if it is outside of the blocks."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if name.startswith("trunk.encoder.layers.") else None


@pytest.fixture(scope="module")
def one_rank() -> list[dict[str, Tensor]]:
    """Gradients on one rank."""
    return run_distributed(whole_gradients, 1, 1, 1, THRESHOLDS["gathered"], True)[0]


@pytest.mark.parametrize(("tp_size", "zero"), [(1, "gathered"), (1, "persistent"), (2, "gathered")], ids=["dp2", "dp2_persistent", "tp2"])
def test_two_ranks_have_the_gradients_of_one_and_none_in_a_dropped_layer(
    one_rank: list[dict[str, Tensor]], tp_size: int, zero: str
) -> None:
    updates = updates_with_different_drops(1)
    for ours in run_distributed(whole_gradients, 2, 2, tp_size, THRESHOLDS[zero], True):
        for update, gradients, expected in zip(updates, ours, one_rank, strict=True):
            scale = max(float(gradient.abs().max()) for gradient in expected.values())
            for name, gradient in gradients.items():
                assert float((gradient - expected[name]).abs().max()) < 1e-5 * scale, (update, name)
                is_out = layer_of(name) in dropped(1, update)
                assert bool(gradient.any()) != is_out, f"{name} in update {update}, where {dropped(1, update)} are dropped"


def test_a_layer_that_is_not_called_would_keep_the_gradient_of_the_update_before() -> None:
    """The reason why encoder._skip runs a dropped block on one position. If this fails, DeepSpeed has changed and _skip can be removed."""
    first, second = updates_with_different_drops(1)[:2]
    gradients = run_distributed(whole_gradients, 1, 1, 1, THRESHOLDS["gathered"], False)[0]
    stale = dropped(1, second) - dropped(1, first)
    names = [name for name in gradients[1] if layer_of(name) in stale]
    assert names and any(gradients[1][name].any() for name in names)
