"""The recipe, the ds_config and the batch of an update that is measured. Without any engine. Imports torch only in functions."""

from dataclasses import replace
from typing import Any

from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.modalities.registry import MODALITIES

PRECISIONS = ("fp32", "bf16", "fp16")


def build_recipe(name: str, *, batch: int, length: int, dropout: str = "published") -> Recipe:
    """Return the recipe `name` with updates of `batch` samples of this `length`. `dropout`: the recipe's own ("published"), or a number
    for all kinds of dropout."""
    modality = name.partition("_")[0]
    recipe = MODALITIES[modality].resized(RECIPES[modality][name](), length)
    if dropout != "published":
        prob = float(dropout)
        block = replace(recipe.model.block, drop_path=prob, layerdrop=prob)
        recipe = replace(recipe, model=replace(recipe.model, hidden_dropout=prob, attention_dropout=prob, block=block))
    data = replace(recipe.data, **({"group_size": batch} if recipe.data.group_size > 1 else {}))
    return replace(recipe, data=data, run=replace(recipe.run, global_batch_size=batch))


def task_recipe(recipe: Recipe, task: str) -> Recipe:
    """Return the recipe that fine-tunes the network of `recipe` on a task of text with two classes. The dropouts are those of `recipe`."""
    made = text_recipe(task, TEXT_TASKS[task], recipe)
    objective = replace(made.objective, labels=("0", "1")) if hasattr(made.objective, "labels") else made.objective
    return replace(made, model=recipe.model, objective=objective, run=replace(made.run, global_batch_size=recipe.run.global_batch_size))


def with_precision(content: dict[str, Any], precision: str | None) -> dict[str, Any]:
    """Return the ds_config `content` with this precision; None: unchanged."""
    if precision is None:
        return content
    others = {key: value for key, value in content.items() if key not in PRECISIONS}
    return others if precision == "fp32" else others | {precision: {"enabled": True}}


def random_batch(recipe: Recipe, size: int, length: int):
    """Return a micro-batch of `size` random samples, all of the same `length` (tokens of a text, seconds of a recording), with masks as the
    recipe draws them and without padding. In fine-tuning nothing is masked, and the targets are 0 and 1 in turn."""
    import numpy as np
    import torch

    from model.batch import Masks, Targets

    batch = MODALITIES[recipe.modality].random_batch(recipe, size, length, np.random.default_rng(0))
    if not recipe.finetune.task:
        return batch
    values = torch.arange(size) % 2
    values = values if recipe.objective.kind == "classify" else values.float()
    masks = Masks.of(torch.zeros_like(batch.masks.mask_BS))
    return replace(batch, inputs=batch.clean_inputs, masks=masks, targets=Targets(values, torch.arange(size)))
