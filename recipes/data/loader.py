"""This rank's micro-batches of every update, prepared ahead of the training. Knows no modality; which samples an update has is in order.py.

Shapes: N samples of the data set.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple, Protocol, TypeVar

import torch

from model.batch import Batch
from recipes.data.media import BadItem
from recipes.data.order import EpochPlace, Ordered, Position, UpdateOrder
from recipes.data.shared_memory import PREFETCH, SharedMemory, told_as_config_errors
from recipes.errors import ConfigError
from recipes.system.processes import Workers

Example = TypeVar("Example")
EVAL_EPOCH = 0
EVAL_MASK_SEED = 0
"""For the held-out data set: the same masks in every evaluation of every run."""
CLOSE_SECONDS = 3.0
"""How long close() waits for a sample that this process itself decodes."""


class Dataset(Ordered, Protocol[Example]):
    """What a modality brings. example() is a function of its arguments and the data set's seed, so any thread or process may run it;
    the data set itself must be picklable."""

    fingerprint: str
    """Hash of the data, for config.json."""

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> Example:
        """One sample as that epoch sees it: crop, augmentation, mask. `group` are the indices of its group, its own among them."""

    def collate(self, examples: list[Example]) -> Batch:
        """The micro-batch of these samples."""

    def take_bad(self) -> list[BadItem]:
        """Undecodable items that example() met since the last call, in this process."""


class LoadedBatch(NamedTuple):
    """A micro-batch and what could not be decoded on the way."""

    batch: Batch
    bad: list[BadItem]


def check_enough(dataset: Dataset, global_batch_size: int) -> None:
    """Raises: ConfigError if the data set has fewer samples than one global batch."""
    if len(dataset) < global_batch_size:
        raise ConfigError(
            f"the data has {len(dataset)} samples, fewer than one batch of {global_batch_size}; "
            f"use more data or --set run.global_batch_size={max(1, len(dataset) // 8 * 8)}"
        )


def build_batch(dataset: Dataset, positions: list[Position]) -> Batch:
    """The micro-batch of these samples, made here and now."""
    return dataset.collate([dataset.example(*position) for position in positions])


@dataclass(frozen=True)
class BatchBuilder:
    """Builds micro-batches by their samples' positions, in this process or in a worker process."""

    dataset: Dataset

    def __call__(self, positions: list[Position]) -> LoadedBatch:
        """Raises: ConfigError where the data set cannot give them."""
        batch = build_batch(self.dataset, positions)
        return LoadedBatch(batch, self.dataset.take_bad())


class UpdateLoader:
    """This rank's micro-batches, update by update. Data-parallel ranks take contiguous slices of each global batch; tensor-parallel
    ranks pass the same dp_rank and so read the same data."""

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
    ) -> None:
        """`share`: this rank's part of the global batch (see rank_share). Worker processes start at once."""
        self.dataset, self._build, self._order, self._share = dataset, BatchBuilder(dataset), order, share
        self._micro_batch_size, self._num_workers = micro_batch_size, num_workers
        self._room: SharedMemory | None = SharedMemory(num_workers, ranks_on_node) if num_workers else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._ahead: tuple[int, Future[list[LoadedBatch]]] | None = None
        self._is_closed = False
        self._workers: Workers[list[Position], LoadedBatch] | None = None
        self._next, self._parts = first_update, self._open(first_update)
        self.wait_seconds = 0.0
        """How long the last batches() had to wait for its data."""
        # Nothing is received before the first batches(): while the model is built, DeepSpeed's zero.Init replaces torch.empty in every
        # thread, and torch receives a worker's tensor through it: float32 would arrive as the bytes of bf16.

    @property
    def worker_pids(self) -> list[int | None]:
        """Of the processes that read."""
        return self._workers.pids if self._workers else []

    def positions(self, update: int) -> list[Position]:
        """Every sample of the whole global batch."""
        return self._order.positions(update)

    def place(self, update: int) -> EpochPlace:
        """Where that update begins."""
        return self._order.place(update)

    def batches(self, update: int) -> list[LoadedBatch]:
        """This rank's micro-batches of that update, in order; the following ones are then prepared in the background.

        Raises: ConfigError where the data set or the worker processes cannot give them, on this rank alone.
        """
        start = time.perf_counter()
        if self._ahead is None or self._ahead[0] != update:
            self._prefetch(update)
        assert self._ahead is not None
        loaded = self._ahead[1].result()
        self.wait_seconds = time.perf_counter() - start
        self._prefetch(update + 1)
        return loaded

    def close(self) -> None:
        """Stop the background work, within seconds even where it is stuck; the loader cannot be used afterwards."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._workers:
            self._workers.close()
        if self._ahead is not None:
            self._ahead[1].cancel()
        wait([self._thread.submit(tuple)], CLOSE_SECONDS)  # when the thread has come to this, it is done with what was under way
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _prefetch(self, update: int) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead = update, self._thread.submit(self._load, update)

    def _load(self, update: int) -> list[LoadedBatch]:
        if update != self._next:
            self._parts = self._open(update)
        self._next = update + 1
        num_micro_batches = (self._share.stop - self._share.start) // self._micro_batch_size
        loaded = [self._take() for _ in range(num_micro_batches)]
        if self._room:
            self._room.check([item.batch for item in loaded])
            self._room = None
        return loaded

    def _open(self, update: int) -> Iterator[list[Position]]:
        """Begin at that update; the micro-batches that are left to ask for. Worker processes read from now on."""
        parts = micro_batches(self._order, self._share, self._micro_batch_size, update)
        if self._workers:
            self._workers.close()
        if self._num_workers:
            self._workers = Workers(self._build, self._num_workers, method="forkserver", begin=_take_one_core)
            for part in islice(parts, PREFETCH * self._num_workers):
                self._workers.put(part)
        return parts

    def _take(self) -> LoadedBatch:
        """The next micro-batch."""
        if self._workers is None:
            return self._build(next(self._parts))
        with told_as_config_errors(self._num_workers):
            loaded = self._workers.get()
        self._workers.put(next(self._parts))
        return loaded


def _take_one_core() -> None:
    torch.set_num_threads(1)


def micro_batches(order: UpdateOrder, share: slice, size: int, first_update: int) -> Iterator[list[Position]]:
    """The endless list of a rank's micro-batches from an update on, as their samples' positions."""
    for update in count(first_update):
        own = order.positions(update)[share]
        for start in range(0, len(own), size):
            yield own[start : start + size]


def rank_share(global_batch_size: int, dp_rank: int, dp_size: int) -> slice:
    """A rank's contiguous part of a global batch."""
    assert global_batch_size % dp_size == 0 and 0 <= dp_rank < dp_size
    return slice(dp_rank * global_batch_size // dp_size, (dp_rank + 1) * global_batch_size // dp_size)


def eval_batches(
    dataset: Dataset, *, max_samples: int, micro_batch_size: int, group_size: int, dp_rank: int, dp_size: int
) -> Iterator[Batch]:
    """This rank's share of a fixed set of at most max_samples held-out samples, spread evenly over the data set.

    Every rank gets the same number of batches of the same sizes, none of which crosses a group, so a few samples may be left
    out. Nothing for a data set without samples. Bad items stay with the data set (take_bad). Raises: ConfigError where the ranks
    outnumber the samples.
    """
    num_samples = min(max_samples, len(dataset))
    if 0 < num_samples < dp_size:
        raise ConfigError(
            f"{num_samples} held-out samples for {dp_size} data-parallel ranks; raise data.heldout_fraction or run.eval_samples, or "
            "--set data.heldout_fraction=0"
        )
    share = num_samples // dp_size
    if group_size > 1:
        micro_batch_size = max((n for n in range(1, share + 1) if micro_batch_size % n == 0), default=1)
        share -= share % micro_batch_size
    spread = [i * len(dataset) // num_samples for i in range(num_samples)]
    own = range(dp_rank * share, (dp_rank + 1) * share)
    positions = [Position(EVAL_EPOCH, spread[i], tuple(spread[i // group_size * group_size :][:group_size])) for i in own]
    return _in_turn(dataset, [positions[i : i + micro_batch_size] for i in range(0, len(positions), micro_batch_size)])


def _in_turn(dataset: Dataset, parts: list[list[Position]]) -> Iterator[Batch]:
    for part in parts:
        yield build_batch(dataset, part)
