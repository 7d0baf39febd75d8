"""Are the data of a recipe there, and fit to read? Asked by a dry run, which prepares nothing. Hub names are only looked up when
training starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.data.audio import AUDIO
from recipes.data.images import IMAGES
from recipes.data.media import open_media
from recipes.data.prepare import check_fits
from recipes.data.shards import is_prepared
from recipes.data.source import open_source


def check_data(recipe: Recipe) -> None:
    """Raises: ConfigError where data.path is a local path that is not there or does not suit the recipe."""
    path = recipe.data.path
    if path is None or not (Path(path).exists() or Path(path).is_absolute() or path.startswith(".")):
        return
    CHECKS[recipe.modality](recipe, Path(path).expanduser())


def _check_text(recipe: Any, path: Path) -> None:
    if is_prepared(path):
        check_fits(path, recipe.data, recipe.frontend)
    else:
        open_source(recipe.data)


def _check_speech(recipe: Any, path: Path) -> None:
    if is_prepared(path):
        from recipes.data.speech import prepare_speech  # it imports torch, which a dry run rarely needs

        prepare_speech(recipe.data, recipe.frontend, path)
    else:
        open_media(recipe.data.path, AUDIO, column=recipe.data.column)


def _check_vision(recipe: Any, path: Path) -> None:
    if is_prepared(path):
        from recipes.data.vision import prepare_vision

        prepare_vision(recipe.data, path)
    else:
        open_media(recipe.data.path, IMAGES, column=recipe.data.column)


CHECKS: dict[str, Callable[[Any, Path], None]] = {"text": _check_text, "speech": _check_speech, "vision": _check_vision}
