"""The batches of an evaluation: this rank's part of the held-out samples, the same in every evaluation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from model.batch import Batch
from recipes.data.batch_targets import uncounted
from recipes.data.loader import Dataset, build_batch
from recipes.data.order import Position

EVAL_EPOCH = 0
EVAL_MASK_SEED = 0
"""Mask seed of the held-out data set, so that every evaluation of every run has the same masks."""


def eval_batches(
    dataset: Dataset, *, max_samples: int, micro_batch_size: int, group_size: int, dp_rank: int, dp_size: int
) -> Iterator[Batch]:
    """Yield this rank's batches of a fixed set of at most max_samples held-out samples, which are spread evenly over the data set.

    If group_size is above 1, each group_size consecutive samples of the set form a group, and a batch contains samples of one group only.
    Every rank gets the same number of batches of the same sizes, so a few samples may be left out. If there are more ranks than samples, a
    rank without one gets a batch that is not counted. A data set without samples gives no batches. Bad items remain in the data set until
    take_bad().
    """
    num_samples = min(max_samples, len(dataset))
    share = max(num_samples // dp_size, min(num_samples, 1))
    if group_size > 1:
        micro_batch_size = max((n for n in range(1, share + 1) if micro_batch_size % n == 0), default=1)
        share -= share % micro_batch_size  # so that no batch crosses a group
    spread = [i * len(dataset) // num_samples for i in range(num_samples)]
    positions = [Position(EVAL_EPOCH, index, tuple(spread[i // group_size * group_size :][:group_size])) for i, index in enumerate(spread)]
    own = positions[dp_rank * share : (dp_rank + 1) * share]
    for start in range(0, share, micro_batch_size):
        if part := own[start : start + micro_batch_size]:
            yield build_batch(dataset, part)
        else:
            yield replace(build_batch(dataset, positions[:1]), is_counted=False)


def every_batch(dataset: Dataset, micro_batch_size: int, dp_rank: int, dp_size: int) -> Iterator[Batch]:
    """Yield this rank's batches of all samples of the data set, in order. Every rank gets the same number of batches of the same sizes:
    where samples are missing, the last one is repeated and marked as not counted. The samples have targets."""
    share = -(-len(dataset) // dp_size)
    first = dp_rank * share
    own = range(first, first + share)
    for start in range(0, share, micro_batch_size):
        wanted = own[start : start + micro_batch_size]
        positions = [Position(EVAL_EPOCH, min(index, len(dataset) - 1), (min(index, len(dataset) - 1),)) for index in wanted]
        batch = build_batch(dataset, positions)
        yield uncounted(batch, [index >= len(dataset) for index in wanted]) if wanted.stop > len(dataset) else batch


def built_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches, each built in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="data") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
