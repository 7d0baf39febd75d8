"""What one modality brings to the common loop: its front-end, its preparation, its data sets. The only table of modalities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from model.frontends.text import TextFrontend
from model.student import FrontendBuilder
from recipes.config import Recipe
from recipes.data.loader import EVAL_MASK_SEED, Dataset
from recipes.data.prepare import prepare_text
from recipes.data.text import TextDataset


class Prepare(Protocol):
    """Makes (or finds) the prepared folder of a recipe's data. Raises: ConfigError for what the user can mend."""

    def __call__(self, recipe: Recipe, out_dir: Path, *, progress: bool, log: Callable[[str], None]) -> Path: ...


@dataclass(frozen=True)
class Modality:
    """The objects in which modalities differ."""

    build_frontend: Callable[[Recipe], FrontendBuilder]
    prepare: Prepare
    open_data: Callable[[Recipe, Path], tuple[Dataset, Dataset]]
    """(recipe, prepared folder) -> training and held-out samples."""


def _prepare_text(recipe: Recipe, out_dir: Path, *, progress: bool, log: Callable[[str], None]) -> Path:
    return prepare_text(recipe.data, recipe.frontend, out_dir, progress=progress, log=log)


def _open_text(recipe: Recipe, prepared: Path) -> tuple[Dataset, Dataset]:
    train = TextDataset(prepared, "train", mask=recipe.mask, seed=recipe.run.seed)
    return train, TextDataset(prepared, "valid", mask=recipe.mask, seed=EVAL_MASK_SEED)


MODALITIES: dict[str, Modality] = {
    "text": Modality(lambda recipe: partial(TextFrontend, recipe.frontend), _prepare_text, _open_text),
}
