"""Counts and estimates in words. Standard library only."""

from collections.abc import Mapping
from typing import Any


def in_number(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun. `many`: the plural, if it is not the singular with an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def in_percent(share: float) -> str:
    """Return a share as whole percent."""
    return f"{100 * share:.0f} %"


def in_words(value: Mapping[str, Any]) -> str:
    """Return an estimate with its interval."""
    return f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})"


def negative(value: Mapping[str, Any]) -> dict[str, float]:
    """Return an estimate of minus the quantity."""
    return {"value": -value["value"], "low": -value["high"], "high": -value["low"]}


def within(value: float | None, low: float, high: float) -> str:
    """Return a value of a grid from `low` to `high`, or on which side of it the value is. None: infinitely far above."""
    if value is None or value > high:
        return f"above {high:.3g}"
    return f"below {low:.3g}" if value < low else f"{value:.3g}"
