"""The data order: which samples make up which update (optimizer step). Keeps no state: the samples of an update are computed from its
number and from the position in the data at which the run was started or resumed. The shuffled order of any number of samples takes no
memory and no time: permutation.py computes the part that a rank needs."""

from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np

from recipes.data.permutation import CountedPermutation

Shuffling = Literal["drawn", "counted"]
"""How all samples of an epoch are shuffled. drawn: numpy draws the whole epoch, as older releases did. counted: permutation.py."""


class Ordered(Protocol):
    """A data set that UpdateOrder can put into order: it has a length, and may draw the order of an epoch itself."""

    def __len__(self) -> int: ...

    def order(self, rng: np.random.Generator) -> np.ndarray | None:
        """Return the indices of one epoch in reading order, or None: all of them, shuffled, which takes no memory. Consecutive indices
        form groups: samples that share something, such as a crop length."""


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

    def __init__(
        self,
        dataset: Ordered,
        *,
        seed: int,
        global_batch_size: int,
        group_size: int,
        first: EpochOffset | None = None,
        shuffling: Shuffling = "counted",
    ) -> None:
        """`group_size`: samples per group; it divides global_batch_size. `first`: the position in the data at which the run starts or
        resumes. None: the beginning of the data. `shuffling`: that with which the run began."""
        assert global_batch_size % group_size == 0
        self._dataset, self._seed, self._first, self.shuffling = dataset, seed, first or EpochOffset(), shuffling
        self._global_batch_size, self._group_size = global_batch_size, group_size
        self.updates_per_epoch = len(dataset) // global_batch_size
        """Number of full global batches in an epoch. The samples that remain at the end of an epoch's order are not used."""
        offset = -(-self._first.offset // group_size) * group_size  # round up to a whole group: group_size may have changed
        self._first_epoch = offset, max(0, len(dataset) - offset) // global_batch_size
        self._epoch = lru_cache(maxsize=2)(self._order_of)  # two epochs, since the prefetch may be an epoch ahead

    def start_of(self, update: int) -> EpochOffset:
        """Return the position in the data order, an epoch and an offset in it, at which the update begins. Updates count from 0. `update`
        must not be before the first update since the start or resume of the run."""
        number, (offset, left) = update - self._first.update, self._first_epoch
        assert number >= 0
        if number < left:
            return EpochOffset(update, self._first.epoch, offset + number * self._global_batch_size)
        epochs, number = divmod(number - left, self.updates_per_epoch)
        return EpochOffset(update, self._first.epoch + 1 + epochs, number * self._global_batch_size)

    def positions(self, update: int, share: slice | None = None) -> list[Position]:
        """Return the epoch, index and group of the samples in this part of the update's global batch, in order. None: of all."""
        _, epoch, start = self.start_of(update)
        first, stop, _ = (share or slice(None)).indices(self._global_batch_size)
        size = self._group_size
        whole = range(first // size * size, -(-stop // size) * size)  # a share may begin within a group
        indices = self._epoch(epoch)[start + whole.start : start + whole.stop].tolist()
        groups = [tuple(indices[i : i + size]) for i in range(0, len(indices), size)]
        positions = [Position(epoch, index, group) for group in groups for index in group]
        return positions[first - whole.start : stop - whole.start]

    def _order_of(self, epoch: int) -> np.ndarray | CountedPermutation:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch))))
        own = self._dataset.order(rng)
        if own is not None:
            return own
        size = len(self._dataset)
        return rng.permutation(size) if self.shuffling == "drawn" else CountedPermutation(size, rng)
