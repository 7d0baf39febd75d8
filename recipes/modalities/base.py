"""The interface of a modality. A modality is one object in one file; all other code is common to the modalities. Does not import torch;
methods that need torch import it inside. docs/add-a-modality.md is a tutorial."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recipes.config import Recipe
from recipes.settings import Kinds

if TYPE_CHECKING:
    import numpy as np

    from model.batch import Batch
    from model.trunk import FrontendBuilder
    from recipes.data.labelled import Labelled
    from recipes.data.loader import Dataset


class Modality(Protocol):
    """One modality. Methods take the recipe as Any: kinds and check() make sure that its sections are of this modality."""

    @property
    def recipes(self) -> Mapping[str, Callable[[], Recipe]]:
        """The functions that return the recipes, by name. The default is NAME_tiny, with the name of the modality."""

    @property
    def kinds(self) -> Kinds:
        """The classes that the sections frontend, mask and data of a recipe may have."""

    @property
    def probes(self) -> tuple[str, ...]:
        """Tasks of the probe command for this modality, the default first. cloze: predict masked words. classify: predict labels."""

    @property
    def benchmark_length(self) -> int:
        """Length of a sample in a benchmark, in tokens or seconds. 0 if all samples have the same size."""

    def check(self, recipe: Any) -> None:
        """Check that the sections fit together. Raises: ConfigError if front-end, mask and data contradict each other."""

    def check_data(self, recipe: Any, path: Path) -> str:
        """Check that the data at `path` fit the recipe, without preparing them. Return a line that says what is read and left out, or "".

        Raises: ConfigError if they do not fit.
        """

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Make or find the prepared folder and return it (options: num_processes, progress, log, run). Raises: ConfigError."""

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[Dataset, Dataset]":
        """Return the training and the held-out samples of a prepared folder. Raises: ConfigError."""

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """Return a split of labelled data. `prepared`: the run's prepared folder. Raises: ConfigError, MissingSplit."""

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """Return the function that builds the front-end, for student and teacher."""

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe for samples of this length. Raises: ConfigError if the modality cannot have samples of this length."""

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """Return a micro-batch of `size` random samples of this length, with masks of the recipe."""
