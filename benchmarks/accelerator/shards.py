"""Are all shards where they belong, and of the right dtype, before and after an update?"""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accelerator.joined import joined
from accelerator.result import CANNOT, FAIL, OK, Row
from accelerator.worker import Context
from recipes.catalog import RECIPES
from recipes.ds_config import load_ds_config, resolve
from recipes.engine import shards
from recipes.engine.build import is_supported
from recipes.engine.update import backward
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from recipes.train.cli import ROOT

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LENGTH = {"text": 64, "speech": 1, "vision": 0}
BATCH = 4


def check_shards(context: Context) -> Iterator[Row]:
    """Each tiny recipe, bf16 and fp16, through one update."""
    with joined() as (world, parallel):
        for modality, precision in product(RECIPES, DTYPES):
            yield checked(modality, precision, parallel, world.device)


def checked(modality: str, precision: str, parallel: Any, device: torch.device) -> Row:
    """One recipe at one precision."""
    what = f"{modality}_tiny {precision}"
    if not is_supported(precision):
        return Row(what, CANNOT, f"DeepSpeed has no {precision} on this device")
    objective = build(modality, ROOT / "ds_configs" / f"zero3_{precision}.json", parallel)
    return judged(objective, modality, DTYPES[precision], device, what)


def build(modality: str, path: Path, parallel: Any) -> Any:
    """The objective of the tiny recipe."""
    recipe = MODALITIES[modality].resized(RECIPES[modality][f"{modality}_tiny"](), LENGTH[modality])
    micro = recipe.run.global_batch_size // parallel.dp_size
    config = resolve(recipe, load_ds_config(path) | {"train_micro_batch_size_per_gpu": micro}, str(path), parallel.dp_size)
    return build_objective(recipe, config, parallel)


def judged(objective: Any, modality: str, dtype: torch.dtype, device: torch.device, what: str) -> Row:
    """One update, and what is wrong with any tensor."""
    recipe = RECIPES[modality][f"{modality}_tiny"]()
    resized = MODALITIES[modality].resized(recipe, LENGTH[modality])
    batch = MODALITIES[modality].random_batch(resized, BATCH, LENGTH[modality], np.random.default_rng(0)).to(device)
    outcome = objective.forward(batch, objective.count(batch))
    backward(objective.student, outcome.loss, objective.count(batch), 1)
    gradients = [shards.gradient_square(objective.student, [p]).item() for _, p in shards.trained_parameters(objective.student)]
    objective.student.step()
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
    """Tensors on another device or of another dtype than they should be, in words."""
    found = []
    for name, (tensor, wanted) in tensors(objective, dtype).items():
        if tensor.device != device:
            found.append(f"{name} is on {tensor.device}, should be on {device}")
        if tensor.dtype != wanted:
            found.append(f"{name} is {tensor.dtype}, should be {wanted}")
    return found


def tensors(objective: Any, dtype: torch.dtype) -> dict[str, tuple[Tensor, torch.dtype]]:
    """Every kind of shard by name, with the dtype that it should have."""
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
