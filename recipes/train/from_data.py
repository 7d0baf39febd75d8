"""Settings of a run that follow from its data, such as the names of the classes. config.json has them under `from_data`, and the recipe
with them. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.settings import is_given, with_values
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
    return filled_in(recipe, stored_values(run_dir))


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json and every manifest record about these settings; {} if there are none."""
    return {FROM_DATA: dict(values)} if values else {}
