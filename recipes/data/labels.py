"""What a label is: the same class has the same name whether a table holds it as a number, a text or a number of a named class, and a
missing one is none. Reads no data."""

import re
from collections.abc import Sequence
from typing import Any

from recipes.errors import ConfigError

NO_LABEL = ("", "-1")
"""What data sets put where there is no label; the hub's test splits have -1 throughout."""
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
"""One empty cell turns a column of 0 and 1 into 0.0 and 1.0."""


def class_name(value: Any, names: Sequence[str] | None = None) -> str | None:
    """The name of the class that a cell holds, None where it holds none; `names` are those of a column of numbered classes.

    Raises: ConfigError where the cell holds several.
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
    """Whether a cell is empty: null, not a number, or blank."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())
