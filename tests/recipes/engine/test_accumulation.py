"""Gradients of micro-batches are summed in float32 in a bf16 engine: an update is the same, up to rounding, however it is cut."""

from typing import Any

import torch
from torch import Tensor

from model.batch import Batch, Masks
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, random_batch, resolved

SAMPLES = 64
DROPOUT_OFF = ("model.hidden_dropout=0", "model.attention_dropout=0", f"run.global_batch_size={SAMPLES}")


def part_of(batch: Batch, first: int, count: int) -> Batch:
    """Return some samples of a batch."""
    rows = slice(first, first + count)
    masks = Masks.of(batch.masks.mask_BS[rows])
    return Batch(batch.inputs[rows], batch.clean_inputs[rows], masks, None, None, batch.clean_inputs[rows].numel())


def gradient(micro_batch: int, other: dict[str, Any]) -> Tensor:
    """Return the gradient of one update of 64 samples, all parameters in one vector, float64."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, {}, other | {"train_micro_batch_size_per_gpu": micro_batch}, *DROPOUT_OFF)
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    whole = random_batch(recipe, SAMPLES, seed=0)
    for first in range(0, SAMPLES, micro_batch):
        if first:
            objective.student.step()
        part = part_of(whole, first, micro_batch)
        backward(objective.student, objective.forward(part, whole.masks.num_masked).loss, whole.masks.num_masked, 1)
    return torch.cat([shards.gradient_shard(p).double().flatten() for _, p in shards.trained_parameters(objective.student)])


def test_sixteen_micro_batches_are_as_close_to_fp32_as_one() -> None:
    exact = run_distributed(gradient, 1, SAMPLES, {})[0]
    errors = {micro: float((run_distributed(gradient, 1, micro, BF16)[0] - exact).norm() / exact.norm()) for micro in (SAMPLES, 4)}
    assert abs(errors[SAMPLES] - errors[4]) <= 1e-3 and max(errors.values()) < 0.05, errors
