"""What speech and vision have in common: items of a prepared folder, or of files and tables. Torch-free until a function needs it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.data.media import MediaKind


def check_items(recipe: Any, path: Path, kind: "MediaKind", prepare: Callable[[Any, Path], Path]) -> str:
    """A prepared folder must fit, which `prepare` looks at; else there must be items of that kind, of which a line says which are read.

    Raises: ConfigError.
    """
    from recipes.data.media_source import open_media
    from recipes.data.shards import is_prepared

    if is_prepared(path):
        prepare(recipe, path)
        return ""
    return open_media(recipe.data.path, kind, column=recipe.data.column, split=recipe.data.split).note


def open_splits(dataset: Callable[..., Any], recipe: Any, prepared: Path) -> tuple[Any, Any]:
    """Training and held-out samples of a prepared folder. Raises: ConfigError."""
    from recipes.data.loader import EVAL_MASK_SEED

    sections = {"frontend": recipe.frontend, "mask": recipe.mask, "data": recipe.data}
    return dataset(prepared, "train", **sections, seed=recipe.run.seed), dataset(prepared, "valid", **sections, seed=EVAL_MASK_SEED)
