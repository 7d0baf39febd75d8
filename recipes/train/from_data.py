"""Settings of a run that follow from its data, such as the names of the classes, or from the release that began it. config.json has the
former under `from_data`, and the recipe with both. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.bounds import Absent
from recipes.config import Recipe
from recipes.settings import dotted, is_given, walk_settings, with_values
from recipes.train.resume import read_started_run

FROM_DATA = "from_data"


def stored_values(run_dir: Path) -> dict[str, Any]:
    """Return the settings that the run in `run_dir` has taken from its data, by their dotted names; {} if there are none or no run has
    begun. They stay when the run continues. Raises: ConfigError if config.json is damaged."""
    started = read_started_run(run_dir)
    return dict(started.content.get(FROM_DATA, {})) if started else {}


def filled_in(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with these settings from the data; those that are given in the recipe stay as they are."""
    return with_values(recipe, {name: value for name, value in values.items() if not is_given(recipe, name)})


def with_stored_values(run_dir: Path, recipe: Recipe) -> Recipe:
    """Return the recipe filled in with the stored values of the run in `run_dir`, so that it can be compared with that of the run. Raises:
    ConfigError if config.json is damaged."""
    return filled_in(recipe, kept_settings(run_dir, recipe) | stored_values(run_dir))


def kept_settings(run_dir: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the run's own value of each setting whose default is not the behaviour of older releases (`Absent`), by its dotted name; {} if
    no run has begun. So a run continues as it began, whatever release continues it. Raises: ConfigError if config.json is damaged."""
    started = read_started_run(run_dir)
    if started is None:
        return {}
    own = dotted(started.recipe)
    notes_of = {name: notes for name, _, _, notes in walk_settings(recipe)}
    return {name: own.get(name, note.value) for name, notes in notes_of.items() for note in notes if isinstance(note, Absent)}


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json and every manifest record about these settings; {} if there are none."""
    return {FROM_DATA: dict(values)} if values else {}
