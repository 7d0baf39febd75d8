"""Builds this rank's micro-batches of every update (optimizer step) in the background, for all modalities. order.py decides which samples
an update has.

Shapes: N samples of the data set.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch

from model.batch import Batch
from recipes.data.device_feed import pinned
from recipes.data.media import BadItem
from recipes.data.order import EpochOffset, Ordered, Position, Shuffling, UpdateOrder
from recipes.data.shared_memory import PREFETCH, SharedMemory, worker_errors_as_config_errors
from recipes.errors import ConfigError
from recipes.system.processes import Workers

Example = TypeVar("Example")
HOST = torch.device("cpu")
CLOSE_SECONDS = 3.0
"""How long close() waits for a sample that this process itself is decoding."""


class Dataset(Ordered, Protocol[Example]):
    """The data set that a modality implements. It must be picklable. The result of example() depends only on its arguments and on the data
    set's seed, so any thread or process may call it."""

    fingerprint: str
    """Hash of the data, for config.json."""

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> Example:
        """Return sample `index` with the crop, augmentation and mask of that epoch. `group`: the indices of all samples of its group,
        itself included. The samples of a group may share something, such as the crop length."""

    def collate(self, examples: list[Example]) -> Batch:
        """Return the micro-batch of these samples."""

    def take_bad(self) -> list[BadItem]:
        """Return and clear the undecodable items that example() has found in this process since the last call."""


@runtime_checkable
class ReadsAhead(Protocol):
    """A data set whose samples are parts of few large files."""

    def read_ahead(self, positions: list[Position]) -> None:
        """Let the system read these samples in the background."""


class LoadedBatch(NamedTuple):
    """A micro-batch, and the items that could not be decoded while it was built."""

    batch: Batch
    bad: list[BadItem]


def check_enough(dataset: Dataset, global_batch_size: int, left_out: str = "") -> None:
    """Check that the data set is large enough. `left_out`: which items were not prepared, and the setting that decides it, for the message.

    Raises: ConfigError if the data set has fewer samples than one global batch.
    """
    if len(dataset) < global_batch_size:
        raise ConfigError(
            f"the data has {len(dataset)} samples, fewer than one batch of {global_batch_size}"
            f"{f' ({left_out})' if left_out else ''}; {'change that, ' if left_out else ''}"
            f"use more data or --set run.global_batch_size={max(1, len(dataset) // 8 * 8)}"
        )


def build_batch(dataset: Dataset, positions: list[Position]) -> Batch:
    """Build the micro-batch of these samples in the calling thread."""
    if isinstance(dataset, ReadsAhead):
        dataset.read_ahead(positions)
    return dataset.collate([dataset.example(*position) for position in positions])


@dataclass(frozen=True)
class BatchBuilder:
    """Builds micro-batches from the positions of their samples, in this process or in a worker process."""

    dataset: Dataset

    def __call__(self, positions: list[Position]) -> LoadedBatch:
        """Return the micro-batch of these samples, and the items that could not be decoded. Raises: ConfigError if the samples cannot be
        read."""
        batch = build_batch(self.dataset, positions)
        return LoadedBatch(batch, self.dataset.take_bad())


class UpdateLoader:
    """This rank's micro-batches, update by update. Each data-parallel rank takes a contiguous slice of each global batch. Tensor-parallel
    ranks have the same dp_rank, so they read the same data."""

    def __init__(
        self,
        dataset: Dataset,
        order: UpdateOrder,
        *,
        share: slice,
        micro_batch_size: int,
        num_workers: int = 0,
        first_update: int = 0,
        ranks_on_node: int = 1,
        device: torch.device = HOST,
    ) -> None:
        """Start the worker processes (num_workers 0: a thread of this process builds the batches). `share`: this rank's slice of the global
        batch. `first_update`: the update whose batches are built first. `ranks_on_node`: how many ranks share this node's memory.
        `device`: that of the network. If it is a CUDA device, batches are in page-locked memory."""
        self.dataset, self._build, self._order, self._share = dataset, BatchBuilder(dataset), order, share
        self._micro_batch_size, self._num_workers = micro_batch_size, num_workers
        self._device = device
        self._unchecked_memory: SharedMemory | None = SharedMemory(num_workers, ranks_on_node) if num_workers else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._prefetched: tuple[int, Future[list[LoadedBatch]]] | None = None
        self._is_closed = False
        self._workers: Workers[list[Position], LoadedBatch] | None = None
        self._next_update, self._remaining = first_update, self._start_at(first_update)
        self.wait_seconds = 0.0
        """How long the last call of batches() waited for its data."""
        # No batch is received before the first call of batches(). While the model is built, DeepSpeed's zero.Init replaces torch.empty in
        # every thread. torch receives a worker's tensor through torch.empty, so float32 values would arrive as bytes of bf16.

    @property
    def num_workers(self) -> int:
        """Number of worker processes; 0 if a thread of this process builds the batches."""
        return self._num_workers

    @property
    def shuffling(self) -> Shuffling:
        """How the samples of an epoch are shuffled."""
        return self._order.shuffling

    @property
    def worker_pids(self) -> list[int | None]:
        """Process ids of the worker processes; [] if there are none."""
        return self._workers.pids if self._workers else []

    def positions(self, update: int) -> list[Position]:
        """Return the epoch, index and group of every sample in the update's global batch, for all ranks, in order."""
        return self._order.positions(update)

    def start_of(self, update: int) -> EpochOffset:
        """Return the position in the data order, an epoch and an offset in it, at which that update begins."""
        return self._order.start_of(update)

    def batches(self, update: int) -> list[LoadedBatch]:
        """Return this rank's micro-batches of that update, in order, and start to prepare those of the next update in the background.

        Raises: ConfigError if the data set or a worker process fails. It is raised on this rank alone.
        """
        start = time.perf_counter()
        if self._prefetched is None or self._prefetched[0] != update:
            self._prefetch(update)
        assert self._prefetched is not None
        loaded = self._prefetched[1].result()
        self.wait_seconds = time.perf_counter() - start
        self._prefetch(update + 1)
        return loaded

    def first_of(self, update: int) -> Batch | None:
        """Return the first micro-batch of the update that is prepared in the background; None if it is not ready, or if its data cannot be
        read. Does not wait."""
        try:
            loaded = self.peek(update)
        except ConfigError:  # batches() raises it
            return None
        return loaded[0].batch if loaded else None

    def peek(self, update: int) -> list[LoadedBatch] | None:
        """Return what batches(update) will return, if that update is prepared in the background and ready; else None. Does not wait.

        Raises: ConfigError if batches(update) will raise it.
        """
        if self._prefetched is None or self._prefetched[0] != update or not self._prefetched[1].done():
            return None
        return self._prefetched[1].result()

    def close(self) -> None:
        """Stop the background work, within seconds even if a sample never finishes. The loader cannot be used afterwards."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._workers:
            self._workers.close()
        if self._prefetched is not None:
            self._prefetched[1].cancel()
        wait([self._thread.submit(tuple)], CLOSE_SECONDS)  # when the thread runs this empty task, its earlier task is done
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _prefetch(self, update: int) -> None:
        if self._prefetched is not None:
            self._prefetched[1].cancel()
        self._prefetched = update, self._thread.submit(self._load, update)

    def _load(self, update: int) -> list[LoadedBatch]:
        if update != self._next_update:
            self._remaining = self._start_at(update)
        self._next_update = update + 1
        num_micro_batches = (self._share.stop - self._share.start) // self._micro_batch_size
        loaded = [self._next_micro_batch() for _ in range(num_micro_batches)]
        if self._unchecked_memory:
            self._unchecked_memory.check([item.batch for item in loaded])
            self._unchecked_memory = None
        return [item._replace(batch=pinned(item.batch, self._device)) for item in loaded]

    def _start_at(self, update: int) -> Iterator[list[Position]]:
        """Replace the worker processes by new ones, and queue the first micro-batches of that update for them, a fixed number for each
        worker. Return an endless iterator over the micro-batches that follow, each as the positions of its samples. Without worker
        processes nothing is queued, so the iterator begins with the update's first micro-batch."""
        parts = micro_batches(self._order, self._share, self._micro_batch_size, update)
        if self._workers:
            self._workers.close()
        if self._num_workers:
            self._workers = Workers(self._build, self._num_workers, method="forkserver", begin=_take_one_core)
            for part in islice(parts, PREFETCH * self._num_workers):
                self._workers.put(part)
        return parts

    def _next_micro_batch(self) -> LoadedBatch:
        """Return the next micro-batch, and queue one more for the worker processes. Without worker processes, build it here."""
        if self._workers is None:
            return self._build(next(self._remaining))
        with worker_errors_as_config_errors(self._num_workers):
            loaded = self._workers.get()
        self._workers.put(next(self._remaining))
        return loaded


def _take_one_core() -> None:
    torch.set_num_threads(1)


def micro_batches(order: UpdateOrder, share: slice, size: int, first_update: int) -> Iterator[list[Position]]:
    """Yield one rank's micro-batches of update number `first_update` and of all later updates, without end. Each is a list of the positions
    of at most `size` samples. `share`: the rank's slice of each global batch."""
    for update in count(first_update):
        own = order.positions(update, share)
        for start in range(0, len(own), size):
            yield own[start : start + size]


def rank_share(global_batch_size: int, dp_rank: int, dp_size: int) -> slice:
    """Return a data-parallel rank's contiguous slice of the global batch. All slices have the same size."""
    assert global_batch_size % dp_size == 0 and 0 <= dp_rank < dp_size
    return slice(dp_rank * global_batch_size // dp_size, (dp_rank + 1) * global_batch_size // dp_size)
