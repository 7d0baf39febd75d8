"""The interface of a modality. A modality is one object in one file; all other code is common to the modalities. Does not import torch;
methods that need torch import it inside. docs/add-a-modality.md is a tutorial."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recipes.config import Recipe
from recipes.data_config import DataConfig
from recipes.settings import Kinds

if TYPE_CHECKING:
    import numpy as np

    from model.batch import Batch
    from model.trunk import FrontendBuilder
    from recipes.data.examples import ExampleMaker
    from recipes.data.items import Items
    from recipes.data.labelled import Labelled
    from recipes.data.loader import Dataset
    from recipes.data.tokenizer import StoredTokenizer


class DataSource(Protocol):
    """Where a run's samples come from: the data of pre-training, or labelled data. The kind of the recipe's section `data` decides. Methods
    take the recipe as Any: kinds and check() make sure that its sections fit."""

    def check(self, recipe: Any) -> None:
        """Check that the recipe's sections fit together. Raises: ConfigError if front-end, mask and data contradict each other."""

    def check_data(self, recipe: Any, path: Path) -> str:
        """Check that the data at `path` fit the recipe, without preparing them. Return a line that says what is read and left out, or "".

        Raises: ConfigError if they do not fit.
        """

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Return the prepared folder for the recipe's data: an existing one, or a new one at out_dir. `options`: num_processes, progress
        (show a bar), log (called with each line) and run (a ResumedRun, from earlier starts). Raises: ConfigError if the data cannot be
        prepared."""

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[Dataset, Dataset]":
        """Return (training samples, held-out samples) of a prepared folder. Raises: ConfigError if the folder is damaged."""

    def values(self, recipe: Any, prepared: Path) -> Mapping[str, Any]:
        """Return the settings that follow from the prepared data, such as the classes, by their dotted names. {} if there are none."""


class LabelledSource(DataSource, Protocol):
    """Labelled data of one modality."""

    def open_split(self, recipe: Any, prepared: Path, split: str) -> "Dataset":
        """Return the samples of one split of a prepared folder. Only those of the split train are augmented. Raises: ConfigError."""


class Modality(DataSource, Protocol):
    """One modality, which is also the source of the data of its pre-training. Methods take the recipe as Any: kinds and check() make sure
    that its sections are of this modality."""

    @property
    def recipes(self) -> Mapping[str, Callable[[], Recipe]]:
        """Name of each recipe -> function that returns it. The default recipe is called like the modality with _tiny: `text_tiny`."""

    @property
    def kinds(self) -> Kinds:
        """Section of a recipe (frontend, mask, data) -> the config classes that it may have."""

    @property
    def labelled(self) -> "Mapping[type[DataConfig], LabelledSource]":
        """Class of the section `data` in fine-tuning -> the source of its labelled data."""

    @property
    def probes(self) -> tuple[str, ...]:
        """Tasks of the probe command for this modality, the default first. cloze: predict masked words. classify: predict labels."""

    @property
    def benchmark_length(self) -> int:
        """Length of a sample in a benchmark, in tokens or seconds. 0 if all samples have the same size."""

    @property
    def cls_name(self) -> str | None:
        """Name of the token before all others whose output stands for the whole sample, such as `<s>`; None if there is none."""

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """Open a split of the labelled data at `path` for a classification probe. `prepared`: the run's prepared folder.

        Raises: ConfigError if the data cannot be read; MissingSplit if there is no such split.
        """

    def build_maker(self, recipe: Any, tokenizer: "Callable[[], StoredTokenizer]") -> "ExampleMaker":
        """Return the object that makes the examples of a frozen network from single values: a text, a recording or an image. Probes and
        embeddings use it. `tokenizer`: reads the network's tokenizer. Only a modality that has one calls it.

        Raises: ConfigError if the tokenizer is not there.
        """

    def open_items(self, recipe: Any, maker: Any, path: str | None, split: str | None, column: str | None) -> "Items":
        """Open the data at `path` (None: the shipped sample) for embeddings. `maker`: what build_maker returned. `split`: None is all of
        them. `column`: of a table; None: the recipe's.

        Raises: ConfigError if the data cannot be read; MissingSplit if there is no such split.
        """

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """Return the function that builds the front-end, which embeds the raw input, for student and teacher."""

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe changed to samples of this length (tokens or seconds). Raises: ConfigError if the modality has no samples of
        this length."""

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """Return a micro-batch of `size` random samples of this length (tokens or seconds), with random masks as in the recipe."""
