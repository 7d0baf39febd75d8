"""Reads a file that a user writes: one JSON object, in which keys that begin with _ or // are comments. Torch-free."""

import json
import sys
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError

MAX_DEPTH = 100


def read_json_object(path: Path, *, flag: str, what: str, where: str) -> dict[str, Any]:
    """Return the JSON object in `path` without comments. For messages: `flag`, the option that names the file, with a space behind it;
    `what` the file is, such as "a ds_config"; `where` others are.

    Raises: ConfigError if the file is missing, unreadable, not JSON (with line and column), nested too deeply, or has a key twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_comments)
        _check_depth(content)
    except OSError as error:
        raise ConfigError(f"{flag}{path}: {error.strerror}; {where}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); name {what}, which is JSON") from None
    except KeyError as error:
        raise ConfigError(f"{path}: the key {error} stands twice in one object; remove one") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested more than {MAX_DEPTH} levels deep, which {what} is not; correct it") from None
    except ValueError:
        raise ConfigError(f"{path}: an integer has more than {sys.get_int_max_str_digits()} digits; shorten it") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, must be a JSON object {{...}}")
    return content


def _check_depth(content: Any) -> None:
    """Check that objects and lists in `content` are not nested too deeply for recursive functions; the limit is MAX_DEPTH (100) levels.
    Raises: RecursionError."""
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())]
    if level:
        raise RecursionError


def _without_comments(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise KeyError(key)
        if not key.startswith(("_", "//")):
            found[key] = value
    return found
