"""The interface of a probe that runs while a network is trained. Who starts the loop hands over a ProbeSource; the loop runs what it opens,
and writes down the score. What is measured, and on which data, is not decided here. Torch-free."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from recipes.config import Recipe

if TYPE_CHECKING:
    from model.parallel import Parallel
    from recipes.cluster.world import World
    from recipes.engine.build import Engine

METRIC = "probe"
"""Key of the score in metrics.jsonl."""


class ProbePlace(NamedTuple):
    """Where a probe runs."""

    world: "World"
    parallel: "Parallel"
    prepared: Path
    """The folder of the run's prepared data."""
    run_dir: Path


class Probe(Protocol):
    """A probe whose data are open."""

    def run(self, student: "Engine", beat: Callable[[int], Any]) -> dict[str, float]:
        """Return the score as {"probe": ...}, the same on every rank. A collective. Every rank does the same number of forwards, and calls
        `beat` equally often, with the number of each part of the work. Nothing that training reads is changed; the student is in training
        mode afterwards.

        Raises: TrainingBroken if the features are not finite.
        """


class ProbeSource(Protocol):
    """Opens the probe that the recipe's section `eval` describes."""

    def check(self, recipe: Recipe) -> str:
        """Check, before anything is built, that the settings of the probe fit the recipe, and that local data exist. Return a line that
        says what is probed; "" without a probe. Raises: ConfigError."""

    def open(self, recipe: Recipe, place: ProbePlace) -> Probe:
        """Read the samples of this rank. A collective. Raises: ConfigError, on all ranks, if the data cannot be used."""
