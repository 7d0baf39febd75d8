"""What stands beside a setting, as in `Annotated[float, SHARE]`: which values it may have, what older runs count as, and whether it names
a place. Torch-free."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """The ends of an interval; None is no end. What is no finite number is outside of every one."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    """An end that does not belong to the interval."""
    below: float | None = None

    def complaint(self, value: float) -> str | None:
        """What a value outside must be, ready for an error message; None for a value inside."""
        if not math.isfinite(value):
            return "must be a finite number"
        if (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        ):
            return None
        if self.least is not None and self.most is not None:
            return f"must lie between {_shown(self.least)} and {_shown(self.most)}"
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return "must be " + " and ".join(f"{word} {_shown(end)}" for word, end in words.items() if end is not None)


def _shown(end: float) -> str:
    return f"{end:g}" if isinstance(end, float) else str(end)


@dataclass(frozen=True)
class Absent:
    """Beside a field that came later than the runs which lack it: what such a run counts as, where that is not the default."""

    value: Any


@dataclass(frozen=True)
class Place:
    """Beside a text that names a file or a folder: a leading `~` is the user's home."""


POSITIVE = Bounds(above=0)
SHARE = Bounds(least=0, most=1)
PART = Bounds(least=0, below=1)
"""A share that leaves something over."""


def at_least(number: float) -> Bounds:
    """`number` and everything above."""
    return Bounds(least=number)


def between(least: float, most: float) -> Bounds:
    """Both ends and what lies between them."""
    return Bounds(least=least, most=most)
