"""The value of one setting: parsed from the text of --set or from JSON, and checked against its bounds. Torch-free. Whole sections and
recipes are in recipes/settings.py."""

import math
import os
import types
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from model.bounds import Bounds, Place, is_finite
from recipes.errors import ConfigError


def value_of_text(name: str, text: str, hint: Any) -> Any:
    """Convert the text that the user typed after `--set name=` to the type `hint`. Raises: ConfigError if it does not have that type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in args:
            return None
        return value_of_text(name, text, next(a for a in args if a is not type(None)))
    if origin is tuple:
        items = [item for item in text.strip("()[]").split(",") if item.strip()]
        if args[-1] is not Ellipsis and len(items) != len(args):
            raise ConfigError(f"--set {name}={text}: has {len(items)} values, needs {len(args)} separated by commas")
        return tuple(value_of_text(name, item.strip(), args[0]) for item in items)
    if not text:
        raise ConfigError(f"--set {name}=: the value is empty; write one behind the '=', or leave the setting out for its default")
    if origin is Literal:
        if text not in args:
            raise ConfigError(f"--set {name}={text}: must be one of {_choices(args)}")
        return text
    return _plain(name, text, hint)


def _plain(name: str, text: str, hint: type) -> Any:
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"--set {name}={text}: must be true or false")
        return text.lower() == "true"
    try:
        value = hint(text)
    except ValueError:
        raise ConfigError(f"--set {name}={text}: must be {'an integer' if hint is int else 'a number'}") from None
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"--set {name}={text}: must be a finite number")
    return value


def value_of_json(value: Any, hint: Any) -> Any:
    """Return a value that was read from JSON as the type `hint`: a list becomes a tuple if `hint` is a tuple, an integer becomes a float
    if `hint` is float. Raises: TypeError if the value does not have that type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in args else value_of_json(value, args[0])
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is Ellipsis or len(args) == len(value):
            return tuple(value_of_json(item, args[0]) for item in value)
    elif origin is Literal and value in args:
        return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise TypeError(value)


def complaint_about(value: Any, hint: Any, notes: Sequence[Any] = ()) -> str | None:
    """Return the end of an error message ("must be ...") if `value` does not have the type `hint` or is outside of the Bounds among
    `notes`; None if it is valid. The bounds apply to each number of a tuple."""
    try:
        value_of_json(value, hint)
    except TypeError:
        return f"must be {type_in_words(hint)}"
    numbers = [] if value is None else value if isinstance(value, tuple) else [value]
    complaints = (bounds.complaint(number) for bounds in notes if isinstance(bounds, Bounds) for number in numbers)
    return next((text for text in complaints if text), None)


def text_of_value(value: Any) -> str:
    """Return the value as a user types it after `--set name=`, such as "1,2" for a tuple and "none" for None."""
    if isinstance(value, tuple | list):
        return ",".join(map(text_of_value, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def type_in_words(hint: Any) -> str:
    """Return the type `hint` of a setting in words that follow "must be", such as "an integer"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return f"{type_in_words(args[0])} or None"
    if origin is tuple:
        return f"a tuple in which each is {type_in_words(args[0])}"
    if origin is Literal:
        return f"one of {_choices(args)}"
    return {int: "an integer", float: "a finite number", bool: "True or False"}.get(hint, "a text")


def _choices(values: Sequence[Any]) -> str:
    return ", ".join(str(value) or '""' for value in values)


def expand_home(value: Any, notes: Sequence[Any]) -> Any:
    """Return the value, with a leading `~` replaced by the user's home if the setting is a path: a Place is among `notes`."""
    return os.path.expanduser(value) if _is_place(value, notes) else value


def without_folder(value: Any, notes: Sequence[Any]) -> Any:
    """Return the value, with the last part alone of an absolute path if the setting is a path: a Place is among `notes`."""
    return last_part(value) if _is_place(value, notes) else value


def _is_place(value: Any, notes: Sequence[Any]) -> bool:
    return isinstance(value, str) and any(isinstance(note, Place) for note in notes)


def last_part(text: str) -> str:
    """Return the text with the last part alone of an absolute path, which may stand after a `=`, as in a word of a command."""
    before, slash, path = text.partition("/")
    return before + Path(path).name if slash and (not before or before.endswith("=")) else text


def name_argument(text: str) -> str:
    """Return a flag's text, which is a file, folder or hub name, with a leading `~` replaced by the user's home. For argparse's `type`.
    Raises: ArgumentTypeError if it is empty."""
    if not text.strip():
        raise ArgumentTypeError("is empty (a shell variable that is not set?); give it a value or leave it out")
    return os.path.expanduser(text)


def positive_count(text: str) -> int:
    """Convert a flag's text to an integer of at least 1. For argparse's `type`. Raises: ArgumentTypeError if it is no such integer."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return number


def path_argument(text: str) -> Path:
    """Return a flag's text as a path, with a leading `~` replaced by the user's home. For argparse's `type`. Raises: ArgumentTypeError
    if it is empty."""
    return Path(name_argument(text))
