"""The expected share of covered positions, compared with all possible draws."""

from itertools import combinations

import numpy as np
import pytest

from model.masking import span_starts_to_mask
from model.spans import covered_share, mean_over_counts


@pytest.mark.parametrize(("positions", "starts", "length"), [(6, 6, 1), (6, 6, 3), (6, 4, 2), (5, 5, 9), (3, 5, 2), (1, 1, 1)])
def test_the_covered_share_is_the_mean_over_all_draws(positions: int, starts: int, length: int) -> None:
    for spans in range(starts + 1):
        masks = [span_starts_to_mask(np.array(chosen, dtype=int), length, positions) for chosen in combinations(range(starts), spans)]
        assert covered_share(positions, starts, spans, length) == pytest.approx(np.mean(masks), abs=1e-12)


def test_no_position_is_no_share() -> None:
    assert covered_share(0, 0, 0, 4) == 0


@pytest.mark.parametrize(("mean", "expected"), [(3.0, 9), (3.25, 0.75 * 9 + 0.25 * 16), (0.0, 0)])
def test_a_broken_number_is_a_mixture_of_its_neighbours(mean: float, expected: float) -> None:
    assert mean_over_counts(mean, lambda count: count**2) == pytest.approx(expected)
