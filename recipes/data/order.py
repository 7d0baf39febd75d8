"""The data order: which samples make up which update (optimizer step). Keeps no state: the samples of an update are computed from its
number and from the position in the data at which the run was started or resumed."""

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np


class Ordered(Protocol):
    """A data set that UpdateOrder can put into order: it has a length, and draws the order of an epoch."""

    def __len__(self) -> int: ...

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of one epoch in reading order. Consecutive indices form groups: samples that share something, such as a
        crop length."""


class Position(NamedTuple):
    """One sample of an update: its epoch, its index in the data set, and the indices of its group."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    group: tuple[int, ...]


class EpochOffset(NamedTuple):
    """The position in the data order at which an update begins: after `offset` samples of the epoch's order. A run that is resumed with
    another global batch size continues at this position, so that it neither repeats nor skips samples."""

    update: int = 0
    epoch: int = 0
    offset: int = 0

    @staticmethod
    def of_constant_batch(update: int, global_batch_size: int, num_samples: int) -> "EpochOffset":
        """Return the position at which the update begins in a run whose global batch size never changed. Updates count from 0.
        `num_samples`: number of samples in the data set."""
        epoch, number = divmod(update, max(1, num_samples // global_batch_size))
        return EpochOffset(update, epoch, number * global_batch_size)


class UpdateOrder:
    """Computes the samples of every update. They depend on the seed, the update and the position at which the run was started or resumed,
    but not on the number of ranks."""

    def __init__(self, dataset: Ordered, *, seed: int, global_batch_size: int, group_size: int, first: EpochOffset | None = None) -> None:
        """`group_size`: samples per group; it divides global_batch_size. `first`: the position in the data at which the run starts or
        resumes. None: the beginning of the data."""
        assert global_batch_size % group_size == 0
        self._dataset, self._seed, self._first = dataset, seed, first or EpochOffset()
        self._global_batch_size, self._group_size = global_batch_size, group_size
        self.updates_per_epoch = len(dataset) // global_batch_size
        """Number of full global batches in an epoch. The samples that remain at the end of an epoch's order are not used."""
        offset = -(-self._first.offset // group_size) * group_size  # round up to a whole group: group_size may have changed
        self._first_epoch = offset, max(0, len(dataset) - offset) // global_batch_size
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # two epochs, since the prefetch may be an epoch ahead

    def start_of(self, update: int) -> EpochOffset:
        """Return the position in the data order, an epoch and an offset in it, at which the update begins. Updates count from 0. `update`
        must not be before the first update since the start or resume of the run."""
        number, (offset, left) = update - self._first.update, self._first_epoch
        assert number >= 0
        if number < left:
            return EpochOffset(update, self._first.epoch, offset + number * self._global_batch_size)
        epochs, number = divmod(number - left, self.updates_per_epoch)
        return EpochOffset(update, self._first.epoch + 1 + epochs, number * self._global_batch_size)

    def positions(self, update: int) -> list[Position]:
        """Return the epoch, index and group of every sample in the update's global batch, in order."""
        _, epoch, start = self.start_of(update)
        indices = self._epoch(epoch)[start : start + self._global_batch_size].tolist()
        groups = [tuple(indices[i : i + self._group_size]) for i in range(0, len(indices), self._group_size)]
        return [Position(epoch, index, group) for group in groups for index in group]

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        return self._dataset.order(np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch)))))
