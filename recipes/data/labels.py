"""Converts a cell of a label column to a class name. A class has the same name whether the table contains it as a number, as text or as
the number of a named class. An empty cell has no class. Reads no data."""

import re
from collections.abc import Sequence
from typing import Any

from recipes.errors import ConfigError

NO_LABEL = ("", "-1")
"""Cells that mean "no label". In the test splits of many hub data sets all labels are -1."""
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
"""A whole number written as a float: one empty cell turns a column of 0 and 1 into 0.0 and 1.0."""


def class_name(value: Any, names: Sequence[str] | None = None) -> str | None:
    """Return the class name for a cell of a label column: "1" for 1, 1.0 and "1". None if the cell is empty or -1. `names`: for a column of
    numbered classes, the name of each number.

    Raises: ConfigError if the cell contains several labels.
    """
    if is_missing(value):
        return None
    if isinstance(value, list | dict):
        raise ConfigError(f"a label is {value}, and a probe needs one class for each example; --label-column NAME of a column with one")
    if names is not None and isinstance(value, int) and value < len(names):
        return names[value] if value >= 0 else None
    text = str(value).strip()
    number = WHOLE_NUMBER.fullmatch(text)
    text = number[1] if number else text
    return None if text in NO_LABEL else text


def is_missing(value: Any) -> bool:
    """True if a cell is empty: null, NaN, or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
