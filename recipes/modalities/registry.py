"""What one modality brings to the common loop: its front-end, its preparation, its data sets. The only table of modalities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from model.frontends.speech import SpeechFrontend
from model.frontends.text import TextFrontend
from model.frontends.vision import VisionFrontend
from model.student import FrontendBuilder
from recipes.config import Recipe
from recipes.data.loader import EVAL_MASK_SEED, Dataset
from recipes.data.prepare import prepare_text
from recipes.data.speech import SpeechDataset, prepare_speech
from recipes.data.text import TextDataset
from recipes.data.vision import VisionDataset, prepare_vision


class Prepare(Protocol):
    """Makes (or finds) the prepared folder of a recipe's data. Raises: ConfigError for what the user can mend."""

    def __call__(self, recipe: Any, out_dir: Path, **options: Any) -> Path: ...


@dataclass(frozen=True)
class Modality:
    """The objects in which modalities differ."""

    build_frontend: Callable[[Recipe], FrontendBuilder]
    prepare: Prepare
    open_data: Callable[[Recipe, Path], tuple[Dataset, Dataset]]
    """(recipe, prepared folder) -> training and held-out samples."""


# The sections of a recipe are of its own modality: recipes/check.py holds them to it, so they are Any here.
def _builder(frontend: Any) -> Callable[[Recipe], FrontendBuilder]:
    return lambda recipe: partial(frontend, recipe.frontend)


def _prepare_text(recipe: Any, out_dir: Path, **options: Any) -> Path:
    return prepare_text(recipe.data, recipe.frontend, out_dir, **options)


def _prepare_speech(recipe: Any, out_dir: Path, **options: Any) -> Path:
    return prepare_speech(recipe.data, recipe.frontend, out_dir, **options)


def _prepare_vision(recipe: Any, out_dir: Path, **options: Any) -> Path:
    return prepare_vision(recipe.data, out_dir, **options)


def _open_text(recipe: Any, prepared: Path) -> tuple[Dataset, Dataset]:
    train = TextDataset(prepared, "train", mask=recipe.mask, seed=recipe.run.seed)
    return train, TextDataset(prepared, "valid", mask=recipe.mask, seed=EVAL_MASK_SEED)


def _open_media(dataset: Callable[..., Dataset], recipe: Any, prepared: Path) -> tuple[Dataset, Dataset]:
    sections = {"frontend": recipe.frontend, "mask": recipe.mask, "data": recipe.data}
    train = dataset(prepared, "train", **sections, seed=recipe.run.seed)
    return train, dataset(prepared, "valid", **sections, seed=EVAL_MASK_SEED)


MODALITIES: dict[str, Modality] = {
    "text": Modality(_builder(TextFrontend), _prepare_text, _open_text),
    "speech": Modality(_builder(SpeechFrontend), _prepare_speech, partial(_open_media, SpeechDataset)),
    "vision": Modality(_builder(VisionFrontend), _prepare_vision, partial(_open_media, VisionDataset)),
}
