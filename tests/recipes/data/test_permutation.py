"""The permutation whose elements are computed one by one: it is one, for any size, and looks as if it was drawn."""

import tracemalloc
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.permutation import CountedPermutation

HUNDRED_MILLION = 10**8


def permutation_of(size: int, *seeds: int) -> CountedPermutation:
    return CountedPermutation(size, np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds))))


def chi_square(counts: np.ndarray) -> float:
    """Return the statistic, over its degrees of freedom, of equally probable cells."""
    expected = counts.sum() / counts.size
    return float((np.square(counts - expected) / expected).sum() / (counts.size - 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 2**63))
def test_every_number_below_the_size_has_one_position(size: int, seed: int) -> None:
    whole = permutation_of(size, seed)
    assert len(whole) == size and sorted(whole[:].tolist()) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2**48), st.integers(0, 2**63), st.data())
def test_any_part_can_be_computed_alone(size: int, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, min(size, start + 300)))
    permutation = permutation_of(size, seed)
    part = permutation[start:stop].tolist()
    assert part == [permutation[i : i + 1].item() for i in range(start, stop)]
    assert len(set(part)) == len(part) and all(0 <= number < size for number in part)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_of_a_few_numbers_are_equally_frequent(size: int) -> None:
    counts = Counter(tuple(permutation_of(size, 7, epoch)[:].tolist()) for epoch in range(3000))
    assert chi_square(np.array([counts[one] for one in permutations(range(size))])) < 2.5  # 1 is expected


@pytest.mark.parametrize("size", [4096, 100_003])
def test_positions_and_numbers_are_as_independent_as_in_a_drawn_permutation(size: int) -> None:
    numbers_N, positions_N = permutation_of(size, 3)[:], np.arange(size)
    sigma = size**-0.5
    assert abs(np.corrcoef(numbers_N, positions_N)[0, 1]) < 4 * sigma
    assert abs(np.corrcoef(numbers_N[1:], numbers_N[:-1])[0, 1]) < 4 * sigma
    assert np.abs(numbers_N - positions_N).mean() / size == pytest.approx(1 / 3, abs=4 * sigma * 45**-0.5 * 2)
    cells = np.histogram2d(positions_N, numbers_N, bins=16)[0]
    assert chi_square(cells) < 1.4
    assert chi_square(np.bincount(numbers_N[::7] % 13)) < 2.8, "low digits at regular positions"


def test_the_permutations_of_two_epochs_agree_at_about_one_position() -> None:
    first, second = permutation_of(4096, 1, 0)[:], permutation_of(4096, 1, 1)[:]
    assert (first == second).sum() < 8


def test_a_batch_of_an_epoch_of_a_hundred_million_samples_takes_less_than_a_megabyte() -> None:
    """The permutation itself takes 800 MB, which would be counted too: numpy reports its arrays to tracemalloc."""
    tracemalloc.start()
    part = permutation_of(HUNDRED_MILLION, 1)[HUNDRED_MILLION - 4096 :]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(part) == 4096 and 4096 * 8 < peak < 1_000_000
