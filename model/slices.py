"""Which elements of one range of a parameter are which elements of another one, for any two tensor-parallel sizes. No files and no ranks.

Tensor parallelism cuts a parameter along one dimension. The parameter is treated as a matrix: its dimensions before that one are the rows,
all others are the columns. Each slice is then a block of columns, flattened row by row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Rectangle(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of the whole matrix. The ends are not included."""

    top: int
    bottom: int
    left: int
    right: int

    def common(self, other: "Rectangle") -> "Rectangle":
        """Return the part that both rectangles have. It has no rows or no columns if there is none."""
        begins, ends = map(max, self[::2], other[::2]), map(min, self[1::2], other[1::2])
        (top, left), (bottom, right) = begins, ends
        return Rectangle(top, max(top, bottom), left, max(left, right))

    def is_empty(self) -> bool:
        """True if the rectangle has no element."""
        return self.top == self.bottom or self.left == self.right


@dataclass(frozen=True)
class FlatRange:
    """Elements `first` to `stop` (not included) of a flattened slice: slice number `number` of those that have `columns` columns each."""

    number: int
    columns: int
    first: int
    stop: int

    def rectangles(self) -> Iterator[Rectangle]:
        """Yield the range as rectangles of the whole matrix, in order, at most three: a part of a row, whole rows, a part of a row."""
        first, begin = self.first, self.number * self.columns
        while first < self.stop:
            top, left = divmod(first, self.columns)
            rows = 0 if left else (self.stop - first) // self.columns
            end = first + rows * self.columns if rows else min(self.stop, first + self.columns - left)
            yield Rectangle(top, top + max(1, rows), begin + left, begin + (self.columns if rows else left + end - first))
            first = end

    def element(self, row: int, column: int) -> int:
        """Return the number of an element of the whole matrix in the flattened slice, which has this column."""
        return row * self.columns + column - self.number * self.columns

    def common(self, other: "FlatRange") -> Iterator[Rectangle]:
        """Yield the elements that both ranges have, as rectangles of the whole matrix."""
        theirs = list(other.rectangles())
        return (both for one in self.rectangles() for two in theirs if not (both := one.common(two)).is_empty())

    def needed_by(self, reader: "FlatRange") -> tuple[int, int] | None:
        """Return (first, stop) of the elements from the first to the last that `reader` has too; None if it has none."""
        ends = [(self.element(r.top, r.left), self.element(r.bottom - 1, r.right - 1) + 1) for r in self.common(reader)]
        return (min(first for first, _ in ends), max(stop for _, stop in ends)) if ends else None

    def view(self, values: Tensor, part: Rectangle) -> Tensor:
        """Return a rectangle as a matrix. `values`: all elements of the range, contiguous. The matrix is a view of them."""
        offset = values.storage_offset() + self.element(part.top, part.left) - self.first
        return values.as_strided((part.bottom - part.top, part.right - part.left), (self.columns, 1), offset)


def copy_common(source: FlatRange, values: Tensor, target: FlatRange, out: Tensor) -> None:
    """Copy the elements that both ranges have from `values`, all elements of `source`, into `out`, all elements of `target`."""
    for part in source.common(target):
        target.view(out, part).copy_(source.view(values, part))
