"""Functions that the modalities speech and vision share: they check and open data. torch is imported only in functions that need it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.data.media import MediaKind


def check_items(recipe: Any, path: Path, kind: "MediaKind", prepare: Callable[[Any, Path], Path]) -> str:
    """If `path` is a prepared folder, check that it fits the recipe, by calling prepare(recipe, path), and return "". Otherwise check that
    data.path names items of this kind, and return a line that says which of them are read. Raises: ConfigError if the data do not fit."""
    from recipes.data.media_source import open_media
    from recipes.data.shards import is_prepared

    if is_prepared(path):
        prepare(recipe, path)
        return ""
    return open_media(recipe.data.path, kind, column=recipe.data.column, split=recipe.data.split).note


def open_splits(dataset: Callable[..., Any], recipe: Any, prepared: Path) -> tuple[Any, Any]:
    """Return (training samples, held-out samples) of a prepared folder. `dataset`: the class that reads them. The held-out samples have the
    same masks in every run. Raises: ConfigError if the folder is damaged."""
    from recipes.data.heldout import EVAL_MASK_SEED

    sections = {"frontend": recipe.frontend, "mask": recipe.mask, "data": recipe.data}
    return dataset(prepared, "train", **sections, seed=recipe.run.seed), dataset(prepared, "valid", **sections, seed=EVAL_MASK_SEED)
