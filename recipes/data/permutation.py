"""A random permutation whose elements are computed one by one, so that an epoch's order of any number of samples takes no memory. Which
samples are permuted, and when, is in order.py.

A Feistel network permutes the pairs (x, y) of a number below `width` and one below width + 1, where width^2 is just above the size. A pair
stands for the number x * (width + 1) + y. A number that is not below the size is permuted again until it is (cycle walking).
Sources: Luby and Rackoff 1988 (Feistel networks as pseudo-random permutations), Black and Rogaway 2002 (other moduli, cycle walking),
Steele et al. 2014 (SplitMix64's finalizer, by which numbers are mixed).

Shapes: P positions.
"""

from math import isqrt

import numpy as np

ROUNDS = 12
"""Rounds of the network. Large sizes need four, small ones more: with 12 all permutations of 4 numbers are equally likely."""


class CountedPermutation:
    """A permutation of the numbers below `size`, given by `rng`. permutation[slice] computes this part of it."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """`rng`: only a few numbers are drawn from it, the keys of the rounds."""
        self._size = size
        self._width = np.uint64(isqrt(max(0, size - 1)) + 1)
        self._keys = rng.integers(1 << 64, size=(ROUNDS // 2, 2), dtype=np.uint64)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return the elements at the positions of the slice. Shapes: int64 (P,)."""
        value_P = self._permuted(np.arange(*part.indices(self._size), dtype=np.uint64))
        while len(outside := np.flatnonzero(value_P >= self._size)):
            value_P[outside] = self._permuted(value_P[outside])
        return value_P.astype(np.int64)

    def _permuted(self, value_P: np.ndarray) -> np.ndarray:
        width, other = self._width, self._width + np.uint64(1)
        x_P, y_P = np.divmod(value_P, other)
        for x_key, y_key in self._keys:
            x_P = (x_P + _mixed(y_P + x_key) % width) % width
            y_P = (y_P + _mixed(x_P + y_key) % other) % other
        return x_P * other + y_P


def _mixed(value_P: np.ndarray) -> np.ndarray:
    """Return 64 random-looking bits for each number. Source: SplitMix64's finalizer."""
    value_P = (value_P ^ value_P >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value_P = (value_P ^ value_P >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value_P ^ value_P >> np.uint64(31)
