"""Rows of several samples: every sample once, no row over its capacity, few rows, and an order that the generator alone decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.rows import Pattern, RowPlan, fill_rows

CAPACITY = 20
lengths = st.lists(st.integers(1, CAPACITY), max_size=60).map(lambda values: np.array(values, dtype=np.int64))


def rows_of(plan: RowPlan, seed: int) -> list[list[int]]:
    members_N = plan.draw(np.random.default_rng(seed))
    return [members_N[plan.places(row)].tolist() for row in range(len(plan))]


@settings(max_examples=150, deadline=None)
@given(lengths, st.integers(0, 3))
def test_every_sample_is_in_one_row_and_no_row_exceeds_its_capacity(lengths_N: np.ndarray, seed: int) -> None:
    rows = rows_of(RowPlan(lengths_N, CAPACITY), seed)
    assert sorted(member for row in rows for member in row) == list(range(len(lengths_N)))
    assert all(row and lengths_N[row].sum() <= CAPACITY for row in rows)


@settings(max_examples=100, deadline=None)
@given(lengths)
def test_no_two_rows_fit_into_one_and_the_rows_are_at_most_those_of_best_fit_decreasing(lengths_N: np.ndarray) -> None:
    """11/9 of the fewest possible rows, and one more (Johnson 1974)."""
    totals = sorted(sum(pattern.lengths) for pattern in fill_rows(lengths_N, CAPACITY) for _ in range(pattern.num_rows))
    assert len(totals) < 2 or totals[0] + totals[1] > CAPACITY
    assert len(totals) <= 11 / 9 * np.ceil(lengths_N.sum() / CAPACITY) + 1 or (lengths_N > CAPACITY / 3).any()


@settings(max_examples=50, deadline=None)
@given(lengths, st.integers(0, 3))
def test_the_rows_follow_from_lengths_and_generator(lengths_N: np.ndarray, seed: int) -> None:
    assert rows_of(RowPlan(lengths_N, CAPACITY), seed) == rows_of(RowPlan(lengths_N.copy(), CAPACITY), seed)


def test_each_draw_has_the_same_lengths_in_its_rows_and_other_samples() -> None:
    lengths_N = np.random.default_rng(0).integers(1, CAPACITY + 1, 200)
    plan = RowPlan(lengths_N, CAPACITY)
    one, other = rows_of(plan, 1), rows_of(plan, 2)
    assert [lengths_N[row].tolist() for row in one] == [lengths_N[row].tolist() for row in other]
    assert sum(a == b for a, b in zip(one, other, strict=True)) < len(one) / 4


def test_equal_short_samples_fill_their_rows() -> None:
    assert fill_rows(np.full(11, 5), 20) == [Pattern(2, (5, 5, 5, 5)), Pattern(1, (5, 5, 5))]


def test_a_row_takes_the_sample_that_leaves_least_space() -> None:
    assert fill_rows(np.array([8, 10, 12]), 20) == [Pattern(1, (12, 8)), Pattern(1, (10,))]


def test_lengths_of_articles_fill_999_of_1000_positions() -> None:
    """Log-normal lengths of mean 600 and sigma 1, cut at 512."""
    articles = np.random.default_rng(0).lognormal(np.log(600) - 0.5, 1.0, 20_000).astype(np.int64) + 1
    lengths_N = np.concatenate([np.full((articles // 511).sum(), 512), articles % 511 + 1])
    plan = RowPlan(lengths_N, 512)
    assert lengths_N.sum() / (512 * len(lengths_N)) < 0.72
    assert lengths_N.sum() / (512 * len(plan)) > 0.999


def test_no_samples_make_no_rows() -> None:
    plan = RowPlan(np.empty(0, dtype=np.int64), CAPACITY)
    assert len(plan) == 0 and not len(plan.draw(np.random.default_rng(0)))


@pytest.mark.parametrize("length", [0, CAPACITY + 1])
def test_samples_without_tokens_or_longer_than_a_row_are_a_defect(length: int) -> None:
    with pytest.raises(AssertionError, match="empty or longer"):
        fill_rows(np.array([3, length]), CAPACITY)
