"""Which samples make which update, and this rank's micro-batches of them, one update ahead of the training. Knows no modality and
keeps no state that a resumed run would need: every update is computed from its number.

Shapes: N samples of the data set.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np

from model.batch import Batch
from recipes.errors import ConfigError

Example = TypeVar("Example")
EVAL_EPOCH = 0
EVAL_MASK_SEED = 0
"""For the held-out data set: the same masks in every evaluation of every run."""


class Dataset(Protocol[Example]):
    """What a modality brings. example() is a function of its arguments and the data set's seed, so any thread or process may run it."""

    fingerprint: str
    """Hash of the data, for config.json."""

    def __len__(self) -> int: ...

    def example(self, epoch: int, index: int) -> Example:
        """One sample as that epoch sees it: crop, augmentation, mask."""

    def collate(self, examples: list[Example]) -> Batch:
        """The micro-batch of these samples."""


def check_enough(dataset: Dataset, global_batch_size: int) -> None:
    """Raises: ConfigError if the data set has fewer samples than one global batch."""
    if len(dataset) < global_batch_size:
        raise ConfigError(
            f"the data has {len(dataset)} samples, fewer than one batch of {global_batch_size}; "
            f"use more data or --set run.global_batch_size={max(1, len(dataset) // 8 * 8)}"
        )


class UpdateLoader:
    """Micro-batches by update number. Tensor-parallel ranks pass the same dp_rank and so read the same data."""

    def __init__(self, dataset: Dataset, *, seed: int, global_batch_size: int, micro_batch_size: int, dp_rank: int, dp_size: int) -> None:
        """Raises: ConfigError if the data set has fewer samples than one global batch."""
        assert global_batch_size % (dp_size * micro_batch_size) == 0 and 0 <= dp_rank < dp_size
        check_enough(dataset, global_batch_size)
        self._dataset, self._seed = dataset, seed
        self._global_batch_size, self._micro_batch_size = global_batch_size, micro_batch_size
        self._rows = slice(dp_rank * global_batch_size // dp_size, (dp_rank + 1) * global_batch_size // dp_size)
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)  # two: the prefetch may be an epoch ahead
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._ahead: tuple[int, Future[list[Batch]]] | None = None
        self.wait_seconds = 0.0
        """How long the last batches() had to wait for its data."""

    @property
    def updates_per_epoch(self) -> int:
        """Full global batches in the data; the rest of each epoch's permutation is left out."""
        return len(self._dataset) // self._global_batch_size

    def positions(self, update: int) -> list[tuple[int, int]]:
        """(epoch, index) of every sample of the whole global batch; updates count from 0."""
        epoch, offset = divmod(update, self.updates_per_epoch)
        start = offset * self._global_batch_size
        indices_N = self._permutation(epoch)
        return [(epoch, index) for index in indices_N[start : start + self._global_batch_size].tolist()]

    def batches(self, update: int) -> list[Batch]:
        """This rank's micro-batches of that update, in order; the next update is then prepared in the background."""
        start = time.perf_counter()
        if self._ahead is None or self._ahead[0] != update:
            self._prefetch(update)
        assert self._ahead is not None
        batches = self._ahead[1].result()
        self.wait_seconds = time.perf_counter() - start
        self._prefetch(update + 1)
        return batches

    def close(self) -> None:
        """Stop the background thread; the loader cannot be used afterwards."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _prefetch(self, update: int) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead = update, self._worker.submit(self._build, update)

    def _build(self, update: int) -> list[Batch]:
        return list(_micro_batches(self._dataset, self.positions(update)[self._rows], self._micro_batch_size))

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        return rng.permutation(len(self._dataset))


def eval_batches(dataset: Dataset, *, max_samples: int, micro_batch_size: int, dp_rank: int, dp_size: int) -> Iterator[Batch]:
    """This rank's share of a fixed set of at most max_samples held-out samples, spread evenly over the data set.

    Every rank gets the same number of batches of the same sizes (the last may be smaller), so up to dp_size - 1 samples are left
    out. Nothing for a data set without samples. Raises: ConfigError where the ranks outnumber the samples.
    """
    num_samples = min(max_samples, len(dataset))
    if 0 < num_samples < dp_size:
        raise ConfigError(
            f"{num_samples} held-out samples for {dp_size} data-parallel ranks; raise data.heldout_fraction or run.eval_samples, or "
            "--set data.heldout_fraction=0"
        )
    share = num_samples // dp_size
    own = range(dp_rank * share, (dp_rank + 1) * share)
    positions = [(EVAL_EPOCH, rank_index * len(dataset) // num_samples) for rank_index in own]
    return _micro_batches(dataset, positions, micro_batch_size)


def _micro_batches(dataset: Dataset, positions: list[tuple[int, int]], size: int) -> Iterator[Batch]:
    for start in range(0, len(positions), size):
        yield dataset.collate([dataset.example(epoch, index) for epoch, index in positions[start : start + size]])
