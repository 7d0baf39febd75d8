"""Opens the batches that a rank reads: those of the updates, and those of an evaluation."""

from collections.abc import Iterator

from model.batch import Batch
from model.parallel import Parallel
from recipes.config import Recipe
from recipes.data.loader import Dataset, UpdateLoader, eval_batches, every_batch, rank_share
from recipes.data.order import EpochOffset, UpdateOrder
from recipes.ds_config import BatchPlan


def heldout_batches(recipe: Recipe, heldout: Dataset, batch: BatchPlan, parallel: Parallel) -> Iterator[Batch]:
    """Return this rank's share of the held-out samples, as micro-batches. Raises: ConfigError if there are fewer samples than ranks."""
    if recipe.objective.evaluates_every_sample:
        return every_batch(heldout, batch.micro_batch_size, parallel.dp_rank, parallel.dp_size)
    return eval_batches(
        heldout,
        max_samples=recipe.run.eval_samples,
        micro_batch_size=batch.micro_batch_size,
        group_size=recipe.data.group_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )


def build_loader(
    recipe: Recipe, dataset: Dataset, batch: BatchPlan, dp_rank: int, *, first: EpochOffset | None = None, ranks_on_node: int = 1
) -> UpdateLoader:
    """Return this rank's loader, starting at the place `first` (None: the beginning of the data). Its worker processes start at once, so
    they read while the engines are built. `ranks_on_node`: number of ranks that share this machine."""
    run, data, first = recipe.run, recipe.data, first or EpochOffset()
    return UpdateLoader(
        dataset,
        UpdateOrder(dataset, seed=run.seed, global_batch_size=run.global_batch_size, group_size=data.group_size, first=first),
        share=rank_share(run.global_batch_size, dp_rank, batch.dp_size),
        micro_batch_size=batch.micro_batch_size,
        num_workers=data.num_workers,
        first_update=first.update,
        ranks_on_node=ranks_on_node,
    )
