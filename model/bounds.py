"""Notes beside the type of a setting, as in `Annotated[float, SHARE]`: its bounds, its value in older runs, and whether it is a path.
Torch-free."""

import math
import sys
from dataclasses import dataclass
from typing import Any

LARGEST_INTEGER = 2**63 - 1
"""The largest integer of numpy and torch."""


def is_finite(number: float) -> bool:
    """True for a number that a float can hold. math.isfinite raises OverflowError for an integer above 1.8e308."""
    return -sys.float_info.max <= number <= sys.float_info.max


@dataclass(frozen=True)
class Bounds:
    """An interval of allowed numbers. An end that is None sets no limit. Infinity, NaN and integers of more than 64 bits are never
    allowed."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    """Lower end that is itself not allowed."""
    below: float | None = None
    """Upper end that is itself not allowed."""

    def complaint(self, value: float) -> str | None:
        """Return the end of an error message, such as "must be at least 1", if `value` is not allowed; None if it is allowed."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        ):
            return None if isinstance(value, float) or abs(value) <= LARGEST_INTEGER else f"must be at most {LARGEST_INTEGER}"
        return f"must {'lie' if self._has_both_ends else 'be'} {self}"

    def __str__(self) -> str:
        """Return the interval in words, such as `at least 1` or `between 0 and 1`."""
        if self._has_both_ends:
            return f"between {_shown(self.least)} and {_shown(self.most)}"
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {_shown(end)}" for word, end in words.items() if end is not None)

    @property
    def _has_both_ends(self) -> bool:
        return self.least is not None and self.most is not None


def _shown(end: float | None) -> str:
    return f"{end:g}" if isinstance(end, float) else str(end)


@dataclass(frozen=True)
class Absent:
    """Note on a setting that older runs have not stored, because it was added later: `value` is its value in those runs, unlike today's
    default."""

    value: Any


@dataclass(frozen=True)
class Place:
    """Note on a setting whose text names a file or a folder. A leading `~` in it means the user's home."""


POSITIVE = Bounds(above=0)
SHARE = Bounds(least=0, most=1)
PART = Bounds(least=0, below=1)
"""Bounds of a share that is never the whole: from 0 to below 1."""


def at_least(number: float) -> Bounds:
    """Return the bounds of all numbers from `number` on, itself included."""
    return Bounds(least=number)


def between(least: float, most: float) -> Bounds:
    """Return the bounds of all numbers from `least` to `most`, both included."""
    return Bounds(least=least, most=most)
