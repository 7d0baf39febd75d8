"""Check that after an update all shards are on the right device and have the right dtype."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from accelerator.result import FAIL, OK, Row, unsupported_row
from accelerator.setting import TinyRun, joined_world
from accelerator.worker import Context
from recipes.catalog import RECIPES
from recipes.engine import shards
from recipes.engine.build import is_supported
from recipes.engine.update import backward, step

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_shards(context: Context) -> Iterator[Row]:
    """Yield a row for each tiny recipe in bf16 and in fp16: whether all shards have the right device and dtype after one update."""
    with joined_world() as (world, parallel):
        for modality, precision in product(RECIPES, DTYPES):
            what = f"{modality}_tiny {precision}"
            if is_supported(precision):
                yield check_run(TinyRun.build(modality, f"zero3_{precision}", world, parallel), DTYPES[precision], world.device, what)
            else:
                yield unsupported_row(precision, what)


def check_run(run: TinyRun, dtype: torch.dtype, device: torch.device, what: str) -> Row:
    """Run one update and return a row: whether loss and gradients are finite, and which tensors then have a wrong device or dtype."""
    objective, total = run.objective, run.objective.count(run.batch)
    outcome = objective.forward(run.batch, total)
    backward(objective.student, outcome.loss, total, 1)
    gradients = [shards.gradient_square(objective.student, [p]).item() for _, p in shards.trained_parameters(objective.student)]
    step(objective.student)
    objective.after_step(1)
    wrong = misplaced(objective, dtype, device)
    loss, bad = float(outcome.loss), sum(not math.isfinite(square) for square in gradients)
    seen = f"loss {loss:.4g}, {len(gradients)} gradients, {bad} not finite"
    if not math.isfinite(loss) or (bad and dtype == torch.bfloat16):  # fp16 begins with a loss scale that overflows
        return Row(what, FAIL, seen)
    if wrong:
        return Row(what, FAIL, f"{len(wrong)} tensors are not as they should be, first: {wrong[0]}", {"wrong": wrong})
    return Row(what, OK, f"{seen}; master, moments and shadow float32, compute shards {str(dtype).removeprefix('torch.')}, all on {device}")


def misplaced(objective: Any, dtype: torch.dtype, device: torch.device) -> list[str]:
    """Return a text for each tensor on the wrong device or of the wrong dtype; [] if all are right. `dtype`: that of the compute
    weights."""
    found = []
    for name, (tensor, wanted) in tensors(objective, dtype).items():
        if tensor.device != device:
            found.append(f"{name} is on {tensor.device}, should be on {device}")
        if tensor.dtype != wanted:
            found.append(f"{name} is {tensor.dtype}, should be {wanted}")
    return found


def tensors(objective: Any, dtype: torch.dtype) -> dict[str, tuple[Tensor, torch.dtype]]:
    """Return `KIND NAME` -> (shard, the dtype that it should have) for every shard of student and teacher. `dtype`: that of the compute
    weights; all others are float32."""
    found: dict[str, tuple[Tensor, torch.dtype]] = {}
    for name, parameter in shards.trained_parameters(objective.student):
        found[f"master {name}"] = shards.master_shard(parameter), torch.float32
        for moment in shards.MOMENTS:
            found[f"{moment} {name}"] = shards.moment_shard(parameter, moment), torch.float32
        found[f"student {name}"] = shards.compute_shard(parameter), dtype
    for name, parameter in shards.named_parameters(objective.teacher):
        found[f"teacher {name}"] = shards.compute_shard(parameter), dtype
    for kind, named in objective.shards().items():
        found |= {f"{kind} {name}": (tensor, torch.float32) for name, tensor in named.items()}
    return found
