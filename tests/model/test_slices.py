"""Ranges of slices: every element is copied to its place, whatever the numbers of slices of the writers and of the readers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.slices import FlatRange, Rectangle, copy_common

WHOLE = torch.arange(60.0).view(5, 12)
"""A matrix whose values are different."""


@st.composite
def ranges(draw: st.DrawFn) -> FlatRange:
    """Return a range of a slice of WHOLE, cut into 1, 2, 3 or 4 blocks of columns."""
    columns = draw(st.sampled_from([12, 6, 4, 3]))
    first = draw(st.integers(0, 5 * columns - 1))
    return FlatRange(draw(st.integers(0, 12 // columns - 1)), columns, first, draw(st.integers(first + 1, 5 * columns)))


def values_of(one: FlatRange) -> Tensor:
    begin = one.number * one.columns
    return WHOLE[:, begin : begin + one.columns].reshape(-1)[one.first : one.stop].clone()


@settings(deadline=None, max_examples=300)
@given(ranges())
def test_the_rectangles_of_a_range_are_its_elements_in_order(one: FlatRange) -> None:
    parts = list(one.rectangles())
    assert len(parts) <= 3
    assert torch.equal(torch.cat([WHOLE[t:b, left:right].reshape(-1) for t, b, left, right in parts]), values_of(one))


@settings(deadline=None, max_examples=300)
@given(ranges(), ranges())
def test_all_common_elements_are_copied_and_no_others_are_changed(source: FlatRange, target: FlatRange) -> None:
    there, here = values_of(source), values_of(target)
    common = sorted(set(there.tolist()) & set(here.tolist()))
    out = torch.full((4 + len(here),), -1.0)
    copy_common(source, there, target, out[2:-2])
    assert out.tolist() == [-1.0, -1.0, *(value if value in common else -1.0 for value in here.tolist()), -1.0, -1.0]
    needed = source.needed_by(target)
    assert (needed is None) == (not common)
    if needed:
        first, stop = needed
        assert set(common) <= set(there[first - source.first : stop - source.first].tolist())
        assert there[first - source.first] in common and there[stop - 1 - source.first] in common


def test_rectangles_apart_from_each_other_have_nothing_in_common() -> None:
    one = Rectangle(0, 2, 0, 3)
    assert one.common(Rectangle(1, 4, 2, 5)) == Rectangle(1, 2, 2, 3)
    assert one.common(Rectangle(2, 4, 0, 3)).is_empty() and one.common(Rectangle(0, 2, 5, 7)).is_empty()
