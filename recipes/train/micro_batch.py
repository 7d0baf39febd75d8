"""The size of an automatic micro-batch: all ranks take the same one, and a run that continues keeps its own. Torch-free. The choice by a
rank's memory: recipes/plan/fit.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, possible_micro_batches, with_micro_batch
from recipes.train.resume import read_started_run

Value = TypeVar("Value")


class Ranks(Protocol):
    """What of a World (recipes/cluster/world.py, which imports torch) is needed here."""

    def on_rank_zero(self, job: Callable[[], Value]) -> Value:
        """Run `job` on rank 0 and return its result on all ranks."""

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks."""


def agreed_micro_batch(ranks: Ranks, run_dir: Path, recipe: Recipe, config: EngineConfig) -> EngineConfig:
    """Return `config` with the micro-batch that all ranks take if the ds_config leaves it open: that of the run in `run_dir`, or the
    smallest that a rank has chosen by its memory. Otherwise `config` as it is. A collective.

    Raises: ConfigError if config.json is damaged.
    """
    stored = ranks.on_rank_zero(lambda: stored_micro_batch(run_dir, recipe, config))
    offers = ranks.gather((config.has_auto_micro_batch, config.batch.micro_batch_size, config.largest_micro_batch))
    if not all(is_auto for is_auto, *_ in offers):
        return config  # check_world names a rank with another ds_config
    fits = stored is not None and all(largest is None or stored <= largest for *_, largest in offers)
    return with_micro_batch(recipe, config, stored if stored and fits else min(micro for _, micro, _ in offers))


def kept_micro_batch(run_dir: Path, recipe: Recipe, config: EngineConfig) -> EngineConfig:
    """Return `config` with the micro-batch of the run in `run_dir`, as agreed_micro_batch() chooses it for one rank."""
    stored, largest = stored_micro_batch(run_dir, recipe, config), config.largest_micro_batch
    is_kept = stored and config.has_auto_micro_batch and (largest is None or stored <= largest)
    return with_micro_batch(recipe, config, stored) if stored and is_kept else config


def stored_micro_batch(run_dir: Path, recipe: Recipe, config: EngineConfig) -> int | None:
    """Return the size of the micro-batch with which the run was trained last. None if there is no run with an update, or if other ranks or
    another global batch train it now and the size does not divide their samples.

    Dropout is a function of the micro-batch's number, so a run gives the same bits only with the same micro-batch. With other ranks the
    bits differ anyway.

    Raises: ConfigError if config.json is damaged.
    """
    run, batch = read_started_run(run_dir), config.batch
    if run is None or any(run.content.get(name) != getattr(batch, name) for name in ("world_size", "tp_size")):
        return None
    micro = run.content.get("deepspeed", {}).get("train_micro_batch_size_per_gpu")
    return micro if micro in possible_micro_batches(recipe, batch.dp_size) else None
