"""What a modality brings to everything that is common: one object, which lives in one file. Torch-free; what needs torch imports it
inside its methods. docs/add-a-modality.md shows one being written."""

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
    """The sections of a recipe are of its own modality, which check() and kinds hold them to; so methods may take it as Any."""

    @property
    def recipes(self) -> Mapping[str, Callable[[], Recipe]]:
        """By name; NAME_tiny is the default."""

    @property
    def kinds(self) -> Kinds:
        """The classes that its sections frontend, mask and data may have."""

    @property
    def probes(self) -> tuple[str, ...]:
        """Tasks that its frozen features are probed with, the default first."""

    @property
    def benchmark_length(self) -> int:
        """Of a sample in a benchmark: tokens, seconds; 0 where all samples are alike."""

    def check(self, recipe: Any) -> None:
        """Raises: ConfigError where front-end, mask and data contradict each other."""

    def check_data(self, recipe: Any, path: Path) -> str:
        """Look whether the data at `path` suit the recipe, without preparing any; a line of what is read and left out, or "".

        Raises: ConfigError.
        """

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Make or find the prepared folder (options: num_processes, progress, log). Raises: ConfigError."""

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[Dataset, Dataset]":
        """Training and held-out samples of a prepared folder. Raises: ConfigError."""

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """A split of labelled data; `prepared` is the run's folder. Raises: ConfigError, MissingSplit."""

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """The front-end of student and teacher."""

    def resized(self, recipe: Any, length: int) -> Recipe:
        """The recipe for samples of this length. Raises: ConfigError for a length that there is not."""

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """A micro-batch of random samples of that length, under the recipe's own mask."""
