"""This rank's micro-batches of every update, prepared ahead of the training. Knows no modality; which samples an update has is in order.py.

Shapes: N samples of the data set.
"""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from model.batch import Batch
from recipes.data.media import BadItem
from recipes.data.order import EpochPlace, Position, UpdateOrder
from recipes.errors import ConfigError
from recipes.system.processes import STOP_SIGNALS, follow_parent, signals_blocked_in_children

Example = TypeVar("Example")
EVAL_EPOCH = 0
EVAL_MASK_SEED = 0
"""For the held-out data set: the same masks in every evaluation of every run."""
PREFETCH = 2  # micro-batches per worker process


class Dataset(Protocol[Example]):
    """What a modality brings. example() is a function of its arguments and the data set's seed, so any thread or process may run it;
    the data set itself must be picklable."""

    fingerprint: str
    """Hash of the data, for config.json."""

    def __len__(self) -> int: ...

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of one epoch as they are read; consecutive ones form the groups that share what samples must share."""

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


class MicroBatches(MapDataset[LoadedBatch | ConfigError]):
    """Micro-batches by their samples' positions, for torch's DataLoader to build in worker processes."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, positions: list[Position]) -> LoadedBatch | ConfigError:
        try:
            batch = build_batch(self._dataset, positions)
        except ConfigError as error:
            return error  # a worker's exception would arrive wrapped in its traceback
        return LoadedBatch(batch, self._dataset.take_bad())


class UpdateLoader:
    """This rank's micro-batches, update by update. Data-parallel ranks take contiguous slices of each global batch; tensor-parallel
    ranks pass the same dp_rank and so read the same data."""

    def __init__(
        self, dataset: Dataset, order: UpdateOrder, *, share: slice, micro_batch_size: int, num_workers: int = 0, first_update: int = 0
    ) -> None:
        """`share`: this rank's part of the global batch (see rank_share). Worker processes start with the first update."""
        self.dataset, self._dataset, self._order, self._share = dataset, MicroBatches(dataset), order, share
        self._micro_batch_size, self._num_workers = micro_batch_size, num_workers
        self._next, self._stream = first_update, self._open_stream(first_update)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._ahead: tuple[int, Future[list[LoadedBatch]]] | None = None
        self.wait_seconds = 0.0
        """How long the last batches() had to wait for its data."""
        # Nothing is received before the first batches(): while the model is built, DeepSpeed's zero.Init replaces torch.empty in every
        # thread, and torch receives a worker's tensor through it: float32 would arrive as the bytes of bf16.

    def positions(self, update: int) -> list[Position]:
        """Every sample of the whole global batch."""
        return self._order.positions(update)

    def place(self, update: int) -> EpochPlace:
        """Where that update begins."""
        return self._order.place(update)

    def batches(self, update: int) -> list[LoadedBatch]:
        """This rank's micro-batches of that update, in order; the following ones are then prepared in the background.

        Raises: ConfigError where the data set cannot give them, on this rank alone.
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
        """Stop the background work; the loader cannot be used afterwards."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._stream = iter(list[LoadedBatch | ConfigError]())  # ends the worker processes

    def _prefetch(self, update: int) -> None:
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._ahead = update, self._worker.submit(self._build, update)

    def _build(self, update: int) -> list[LoadedBatch]:
        if update != self._next:
            self._stream = self._open_stream(update)
        self._next = update + 1
        num_micro_batches = (self._share.stop - self._share.start) // self._micro_batch_size
        return [_loaded(next(self._stream)) for _ in range(num_micro_batches)]

    def _open_stream(self, update: int) -> Iterator[LoadedBatch | ConfigError]:
        workers: dict[str, Any] = {}
        if self._num_workers:
            workers = {"prefetch_factor": PREFETCH, "multiprocessing_context": "forkserver", "worker_init_fn": _begin_work}
        loader = DataLoader(
            self._dataset,
            sampler=PositionSampler(self._order, self._share, self._micro_batch_size, update),
            batch_size=None,
            num_workers=self._num_workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # the default one is the dropout's
            **workers,
        )
        with signals_blocked_in_children():  # until _begin_work runs
            return iter(loader)


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _loaded(result: LoadedBatch | ConfigError) -> LoadedBatch:
    if isinstance(result, ConfigError):
        raise result
    return result


def _begin_work(worker: int) -> None:
    """A stop request reaches the whole process group; the training process decides, and still needs its data until then. A training
    process that was killed takes its workers along: torch's own watch sees only the server that they were forked from, which in turn
    waits for them."""
    follow_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class PositionSampler:
    """The endless list of this rank's micro-batches from an update on, as their samples' positions: a sampler for DataLoader."""

    def __init__(self, order: UpdateOrder, share: slice, micro_batch_size: int, first_update: int) -> None:
        self._order, self._share, self._size, self._first = order, share, micro_batch_size, first_update

    def __iter__(self) -> Iterator[list[Position]]:
        update = self._first
        while True:
            own = self._order.positions(update)[self._share]
            for start in range(0, len(own), self._size):
                yield own[start : start + self._size]
            update += 1


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
