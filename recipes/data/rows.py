"""Computes which samples share a row, for rows that hold several samples. Arithmetic on lengths; reads and writes no files.

Best fit, longest samples first, over the histogram of lengths: its cost depends on the number of different lengths, not on that of the
samples. The numbers of rows and the lengths in each are the same in every epoch; which of the samples of a length goes where is drawn anew.
Source of packing by histogram: Krell et al. 2021 (arXiv 2107.02027). Their rule for the choice of a row is another one.

Shapes: N samples, R rows, C different lengths.
"""

from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Pattern(NamedTuple):
    """Rows with samples of the same lengths: how many rows, and the lengths."""

    num_rows: int
    lengths: tuple[int, ...]


class RowPlan:
    """The rows into which samples of given lengths are packed."""

    def __init__(self, lengths_N: np.ndarray, capacity: int) -> None:
        """`lengths_N`: tokens of each sample, at least 1 and at most `capacity`, the tokens of a row."""
        self._lengths_N = lengths_N
        self._patterns = fill_rows(lengths_N, capacity)
        sizes = [np.full(pattern.num_rows, len(pattern.lengths)) for pattern in self._patterns]
        self._first_R1 = np.concatenate(([0], np.cumsum(np.concatenate([np.empty(0, dtype=np.int64), *sizes]))))
        """Number of samples before each row, and at the end of all rows."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._first_R1) - 1

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the samples in the order of rows: row r holds those from self.places(r). Samples of equal length are permuted.
        Shapes: (N,)."""
        shuffled_N = rng.permutation(len(self._lengths_N))
        members_N = np.empty_like(shuffled_N)
        members_N[self._places_by_length] = shuffled_N[np.argsort(self._lengths_N[shuffled_N], kind="stable")]
        return members_N

    def places(self, row: int) -> slice:
        """Return where the samples of a row stand in what draw() returns."""
        return slice(int(self._first_R1[row]), int(self._first_R1[row + 1]))

    @cached_property
    def _places_by_length(self) -> np.ndarray:
        parts = [np.tile(pattern.lengths, pattern.num_rows) for pattern in self._patterns]
        return np.argsort(np.concatenate([np.empty(0, dtype=np.int64), *parts]), kind="stable")


def fill_rows(lengths_N: np.ndarray, capacity: int) -> list[Pattern]:
    """Pack samples of these lengths into rows of `capacity` tokens, and return what rows there are. Longer samples are placed first. A
    sample is put into the row with the least space that is enough; if no row has enough, a new row is begun."""
    by_space: dict[int, list[Pattern]] = defaultdict(list)
    counts = np.bincount(lengths_N, minlength=1)
    assert not counts[0] and len(counts) <= capacity + 1, "a sample is empty or longer than a row"
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            space = min((space for space, patterns in by_space.items() if space >= length and patterns), default=capacity)
            fitting = by_space[space].pop() if by_space[space] else Pattern(-(-left // (capacity // length)), ())
            num_rows = min(left, fitting.num_rows)
            if num_rows < fitting.num_rows:
                by_space[space].append(fitting._replace(num_rows=fitting.num_rows - num_rows))
            by_space[space - length].append(Pattern(num_rows, (*fitting.lengths, length)))
            left -= num_rows
    return [pattern for space in sorted(by_space) for pattern in by_space[space]]
