"""Imports the libraries that only some kinds of data need. No other module imports them, so the rest runs without them."""

import importlib
from typing import Any, Literal

from recipes.errors import ConfigError

Library = Literal["datasets", "pyarrow", "pyarrow.parquet"]
NEEDED_FOR: dict[Library, str] = {
    "datasets": "hub names, saved data sets and parquet of recordings and images",
    "pyarrow": "parquet",
    "pyarrow.parquet": "parquet",
}


def required(name: Library) -> Any:
    """Import and return the module.

    Raises: ConfigError with the name of the missing package. The package may be a dependency of the library (`datasets` needs pandas).
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else name
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"{name}, which {NEEDED_FOR[name]} need, cannot be imported ({reason}); install {missing}, "
            "or use .txt, csv or jsonl, or folders and lists of files"
        ) from error
