"""Which samples make which update. Keeps no state: every update is computed from its number and from where the launch began."""

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np


class Ordered(Protocol):
    """What a data set tells of its order."""

    def __len__(self) -> int: ...

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of one epoch as they are read; consecutive ones form the groups that share what samples must share."""


class Position(NamedTuple):
    """One sample of an update."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks for
    group: tuple[int, ...]


class EpochPlace(NamedTuple):
    """Where an update begins: after `offset` samples of an epoch's order. A run that goes on with another global batch goes on there,
    so that it neither repeats nor leaves out samples."""

    update: int = 0
    epoch: int = 0
    offset: int = 0

    @staticmethod
    def of_constant(update: int, global_batch_size: int, num_samples: int) -> "EpochPlace":
        """In a run whose global batch was never changed."""
        epoch, number = divmod(update, max(1, num_samples // global_batch_size))
        return EpochPlace(update, epoch, number * global_batch_size)


class UpdateOrder:
    """The samples of every update, on every topology: a function of (seed, update) and of where the launch began."""

    def __init__(self, dataset: Ordered, *, seed: int, global_batch_size: int, group_size: int, first: EpochPlace | None = None) -> None:
        """`first`: where the first update of this launch begins; None is the beginning of the data."""
        assert global_batch_size % group_size == 0
        self._dataset, self._seed, self._first = dataset, seed, first or EpochPlace()
        self._global_batch_size, self._group_size = global_batch_size, group_size
        self.updates_per_epoch = len(dataset) // global_batch_size
        """Full global batches in the data; the rest of each epoch's order is left out."""
        begun = -(-self._first.offset // group_size) * group_size  # the groups may be others by now
        self._begun = begun, max(0, len(dataset) - begun) // global_batch_size
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # two: the prefetch may be an epoch ahead

    def place(self, update: int) -> EpochPlace:
        """Where that update begins; updates count from 0, and there is none before the launch's first."""
        number, (offset, left) = update - self._first.update, self._begun
        assert number >= 0
        if number < left:
            return EpochPlace(update, self._first.epoch, offset + number * self._global_batch_size)
        epochs, number = divmod(number - left, self.updates_per_epoch)
        return EpochPlace(update, self._first.epoch + 1 + epochs, number * self._global_batch_size)

    def positions(self, update: int) -> list[Position]:
        """Every sample of the whole global batch."""
        _, epoch, start = self.place(update)
        indices = self._epoch(epoch)[start : start + self._global_batch_size].tolist()
        groups = [tuple(indices[i : i + self._group_size]) for i in range(0, len(indices), self._group_size)]
        return [Position(epoch, index, group) for group in groups for index in group]

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        return self._dataset.order(np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch)))))
