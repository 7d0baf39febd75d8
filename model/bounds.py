"""Which values a number among the settings may have; stands beside the field as `Annotated[float, between(0, 1)]`. Torch-free."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """The ends of an interval; None is no end."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    """An end that does not belong to the interval."""
    below: float | None = None

    def complaint(self, value: float) -> str | None:
        """What a value outside must be, ready for an error message; None for a value inside. NaN is outside."""
        if (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        ):
            return None
        if self.least is not None and self.most is not None:
            return f"must lie between {self.least:g} and {self.most:g}"
        words = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return "must be " + " and ".join(f"{word} {end:g}" for word, end in words.items() if end is not None)


@dataclass(frozen=True)
class Absent:
    """Beside a field that came later than the runs which lack it: what such a run counts as, where that is not the default."""

    value: Any


POSITIVE = Bounds(above=0)
SHARE = Bounds(least=0, most=1)


def at_least(number: float) -> Bounds:
    """`number` and everything above."""
    return Bounds(least=number)
