"""Notes on settings that are valid but perhaps unintended: one line each, printed by a dry run and when a run starts. Torch-free."""

import math
from collections.abc import Iterator

from recipes.config import Recipe
from recipes.ds_config import LARGEST_AUTO_MICRO_BATCH, EngineConfig

FEWEST_SAMPLES = 4
"""Samples of a micro-batch below which a rank's device is mostly idle, if the size follows from groups of samples (recordings)."""


def notes(recipe: Recipe, named: Recipe, config: EngineConfig, num_ranks: int, num_devices: int) -> list[str]:
    """Return lines that begin with "note: ", for settings that are perhaps unintended. `named`: the recipe without overrides.
    `num_ranks`, `num_devices`: those of this node."""
    found = (*_batch(recipe, config), *_groups(recipe, config), *_devices(num_ranks, num_devices), *_widths(recipe, named), *_steps(recipe))
    return [f"note: {line}" for line in found]


def _batch(recipe: Recipe, config: EngineConfig) -> Iterator[str]:
    total, dp_size = recipe.run.global_batch_size, config.batch.dp_size
    share = total // dp_size
    largest = max(config.batch.micro_batch_size, *(n for n in range(1, LARGEST_AUTO_MICRO_BATCH + 1) if share % n == 0))
    if 4 * largest <= min(share, LARGEST_AUTO_MICRO_BATCH):
        step = dp_size * math.lcm(LARGEST_AUTO_MICRO_BATCH, recipe.data.group_size)
        yield (
            f"each rank takes its {share} samples of an update in micro-batches of {config.batch.micro_batch_size}, for {share} divides by "
            f"little; --set run.global_batch_size={max(1, round(total / step)) * step} would be faster"
        )


def _groups(recipe: Recipe, config: EngineConfig) -> Iterator[str]:
    group, dp_size, micro = recipe.data.group_size, config.batch.dp_size, config.batch.micro_batch_size
    is_limited = config.has_auto_micro_batch and not recipe.data.has_whole_groups and group >= FEWEST_SAMPLES
    if is_limited and micro < FEWEST_SAMPLES:
        better = recommended_batch(recipe.run.global_batch_size, dp_size, group)
        yield (
            f"a micro-batch has only {micro} sample{'s' if micro > 1 else ''}, for it lies within one group of data.group_size {group} and "
            f"divides a rank's {recipe.run.global_batch_size // dp_size}; on {dp_size} data-parallel ranks --set "
            f"run.global_batch_size={better} would be faster"
        )


def recommended_batch(total: int, dp_size: int, group_size: int) -> int:
    """Return the global batch near `total` with which `dp_size` data-parallel ranks have micro-batches of at least FEWEST_SAMPLES samples
    that lie within groups of `group_size` samples, which must be as many."""
    fewest = next(size for size in range(FEWEST_SAMPLES, group_size + 1) if group_size % size == 0)
    step = math.lcm(dp_size * fewest, group_size)
    return max(1, round(total / step)) * step


def _devices(num_ranks: int, num_devices: int) -> Iterator[str]:
    if num_devices > num_ranks:
        yield (
            f"this node has {num_devices} GPUs and {num_ranks} ranks, so {num_devices - num_ranks} stay idle; start one rank for each "
            f"(deepspeed --num_gpus {num_devices}; on Slurm sbatch --gpus-per-node={num_devices})"
        )


def _widths(recipe: Recipe, named: Recipe) -> Iterator[str]:
    now, then = recipe.model, named.model
    scaled = then.ffn_hidden_size * now.hidden_size // then.hidden_size
    if now.ffn_hidden_size == then.ffn_hidden_size != scaled:
        yield (
            f"model.hidden_size is {now.hidden_size}, not {then.hidden_size}, and model.ffn_hidden_size is still {then.ffn_hidden_size}; "
            f"--set model.ffn_hidden_size={scaled} keeps the proportion"
        )


def _steps(recipe: Recipe) -> Iterator[str]:
    run, optim, keep = recipe.run, recipe.optim, recipe.checkpoint.keep_every_steps
    if run.max_steps <= optim.warmup_steps:
        yield (
            f"run.max_steps {run.max_steps} ends within optim.warmup_steps {optim.warmup_steps}, so the learning rate never reaches "
            f"{optim.lr:g}; a short run needs its own optim.warmup_steps and optim.schedule_steps"
        )
    if keep % run.save_steps:
        yield (
            f"checkpoint.keep_every_steps {keep} is no multiple of run.save_steps {run.save_steps}, so only those at multiples of "
            f"{math.lcm(keep, run.save_steps)} stay for ever"
        )
