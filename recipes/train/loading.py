"""Opens the batches that a rank reads: those of the updates, and those of an evaluation."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from model.batch import Batch
from model.parallel import Parallel
from recipes.checkpoint.layout import Manifest
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.data.heldout import built_ahead, eval_batches, every_batch
from recipes.data.loader import HOST, Dataset, UpdateLoader, rank_share
from recipes.data.order import EpochOffset, Shuffling, UpdateOrder
from recipes.ds_config import BatchPlan

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""File with the limit of this process's control group (version 2) on processor time."""
MOST_WORKERS = 32
"""Most worker processes of a rank by default: each takes a few hundred MB and holds micro-batches in /dev/shm."""


def heldout_batches(recipe: Recipe, heldout: Dataset, batch: BatchPlan, parallel: Parallel) -> Iterator[Batch]:
    """Return this rank's share of the held-out samples, as micro-batches: equally many on each rank. A thread builds them."""
    if recipe.objective.evaluates_every_sample:
        return built_ahead(every_batch(heldout, batch.micro_batch_size, parallel.dp_rank, parallel.dp_size))
    batches = eval_batches(
        heldout,
        max_samples=recipe.run.eval_samples,
        micro_batch_size=batch.micro_batch_size,
        group_size=recipe.data.group_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )
    return built_ahead(batches)


def build_loader(
    recipe: Recipe,
    dataset: Dataset,
    batch: BatchPlan,
    dp_rank: int,
    *,
    first: EpochOffset | None = None,
    shuffling: Shuffling = "counted",
    ranks_on_node: int = 1,
    cores: float = 1.0,
    device: torch.device = HOST,
) -> UpdateLoader:
    """Return this rank's loader, starting at the place `first` (None: the beginning of the data). Its worker processes start at once, so
    they read while the engines are built. `shuffling`: that with which the run began. `ranks_on_node`: number of ranks that share this
    machine. `cores`: how many of its cores fall to this rank, for data.num_workers none. `device`: that of the network."""
    run, data, first = recipe.run, recipe.data, first or EpochOffset()
    order = UpdateOrder(
        dataset, seed=run.seed, global_batch_size=run.global_batch_size, group_size=data.group_size, first=first, shuffling=shuffling
    )
    return UpdateLoader(
        dataset,
        order,
        share=rank_share(run.global_batch_size, dp_rank, batch.dp_size),
        micro_batch_size=batch.micro_batch_size,
        num_workers=default_workers(cores) if data.num_workers is None else data.num_workers,
        first_update=first.update,
        ranks_on_node=ranks_on_node,
        device=device,
    )


def kept_shuffling(manifest: Manifest) -> Shuffling:
    """Return how the run that continues at this checkpoint shuffles its samples, which it keeps. A run that began before there was a
    choice has drawn them. Without an update, a run shuffles as new runs do."""
    found: Shuffling = manifest.metadata.get("shuffling", "drawn") if manifest.counters.update else "counted"
    return found


def default_workers(cores: float) -> int:
    """Return the number of worker processes of a rank to which `cores` cores fall: two less, since its own thread and the one that receives
    batches need them, but at least 1 and at most MOST_WORKERS."""
    return max(1, min(MOST_WORKERS, int(cores) - 2))


def cores_of_rank(world: World) -> float:
    """Return how many cores fall to this rank. A core that several ranks of its node may use is shared by them equally. So it is right
    whether the launcher binds ranks to cores or not. The quota of a container is shared equally too. A collective."""
    places = world.gather((world.hosts[world.rank], os.sched_getaffinity(0)))
    node, own = places[world.rank]
    here = [cores for other, cores in places if other == node]
    return min(sum(1 / sum(core in cores for cores in here) for core in own), core_quota() / len(here))


def core_quota() -> float:
    """Return how many cores' time the control group of this process may use, as a container sees it; infinity without a limit.
    Source: Linux's cgroup-v2, cpu.max: quota or "max", then the period, both in microseconds."""
    try:
        quota, period = QUOTA.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # ValueError: "max"
        return math.inf
