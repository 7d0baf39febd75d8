"""The ends of intervals: which values lie inside, and the message for a value outside."""

import math

import pytest

from model.bounds import PART, POSITIVE, SHARE, Bounds, at_least, between


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "said"),
    [
        (at_least(2), (2, 3, 1e9), (1, 1.999), "must be at least 2"),
        (at_least(0), (0, 0.0, -0.0), (-1, -1e-9), "must be at least 0"),
        (POSITIVE, (1e-9, 5), (0, 0.0, -1), "must be above 0"),
        (SHARE, (0, 0.5, 1), (-1e-9, 1.01), "must lie between 0 and 1"),
        (Bounds(above=0, most=1), (1e-9, 1), (0, 1.01), "must be above 0 and at most 1"),
        (between(2, 5), (2, 5), (1, 6), "must lie between 2 and 5"),
        (PART, (0, 0.999), (-1, 1, 1.5), "must be at least 0 and below 1"),
        (Bounds(most=0.5), (0.5, -9), (0.51,), "must be at most 0.5"),
    ],
)
def test_the_message_for_a_value_outside_has_the_bounds(bounds: Bounds, inside: tuple, outside: tuple, said: str) -> None:
    assert [value for value in inside if bounds.complaint(value) is not None] == []
    assert {bounds.complaint(value) for value in outside} == {said}


@pytest.mark.parametrize("bounds", [Bounds(), POSITIVE, SHARE, PART, at_least(0), between(0, 3)])
def test_no_interval_contains_a_number_that_is_not_finite(bounds: Bounds) -> None:
    assert {bounds.complaint(value) for value in (math.nan, math.inf, -math.inf)} == {"must be a finite number"}


def test_an_interval_without_ends_contains_every_number() -> None:
    assert Bounds().complaint(-1e300) is None
