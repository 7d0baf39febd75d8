"""Check that the gradient of an update does not depend on its split into micro-batches."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from accelerator.batches import rows
from accelerator.result import FAIL, OK, Row
from accelerator.setting import joined_world, shipped_config
from accelerator.worker import Context
from recipes.catalog import RECIPES
from recipes.engine import shards
from recipes.engine.update import backward
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from step_recipe import random_batch

SAMPLES, LENGTH = 64, 128
TINY_LENGTH = 32
FP32_SUMS = {"data_types": {"grad_accum_dtype": "fp32"}}
WORSE = 1.25
"""Allowed ratio: error of the accumulated gradient / error with one micro-batch, both against fp32."""
LARGEST = 0.1
"""Bound of the relative error. Measured: 0.007 on a GPU; 0.05 on a CPU, whose sums over positions are in bf16 too."""


def check_accumulation(context: Context) -> Iterator[Row]:
    """Yield a row for each way to compute one update of 64 samples in bf16 (one micro-batch, sixteen micro-batches): how far its gradient
    is from that of an fp32 engine."""
    length = TINY_LENGTH if context.is_tiny else LENGTH
    with joined_world() as (_, parallel):
        exact = gradient(parallel, "zero3_cpu", 1, length, {})
        errors = {
            "1 x 64, bf16": distance(gradient(parallel, "zero3_bf16", 1, length, {}), exact),
            "16 x 4, bf16": distance(gradient(parallel, "zero3_bf16", 16, length, {}), exact),
            "16 x 4, bf16, summed in fp32": distance(gradient(parallel, "zero3_bf16", 16, length, FP32_SUMS), exact),
        }
    bound = min(LARGEST, WORSE * errors["1 x 64, bf16"])
    for what, error in errors.items():
        status = OK if error <= (LARGEST if what == "1 x 64, bf16" else bound) else FAIL
        yield Row(f"gradient of text_tiny, {what}", status, f"{error:.2e} of its norm from fp32's", {"relative_error": error})


def gradient(parallel: Any, config_name: str, micro_batches: int, length: int, more: dict[str, Any]) -> torch.Tensor:
    """Compute the gradient of one update of text_tiny, split into `micro_batches`, and return all gradients as one float64 vector. `more`:
    keys that replace those of the ds_config."""
    micro = SAMPLES // micro_batches
    recipe = MODALITIES["text"].resized(RECIPES["text"]["text_tiny"](), length)
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=SAMPLES))
    objective = build_objective(recipe, shipped_config(recipe, config_name, micro, more=more), parallel)
    student = objective.student
    whole = random_batch(recipe, SAMPLES, length)
    total = objective.count(whole)
    for number in range(micro_batches):
        if number:
            student.step()  # DeepSpeed counts the micro-batch; no update happens yet
        batch = rows(whole, number * micro, (number + 1) * micro).to(torch.device(student.device))
        backward(student, objective.forward(batch, total).loss, total, 1)
    return torch.cat([shards.gradient_shard(p).double().flatten() for _, p in shards.trained_parameters(student)])


def distance(one: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error of a gradient: the norm of its difference from the exact gradient, divided by the norm of the exact one."""
    return float((one - exact).norm() / exact.norm())
