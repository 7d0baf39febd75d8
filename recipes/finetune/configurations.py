"""What --recipe means in a fine-tuning command: with --from random the network, otherwise a published configuration of the task.
Torch-free."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recipes.catalog import RECIPES, default_recipe
from recipes.check import named_recipe
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.supervised_config import SupervisedConfig

Published = Mapping[str, Mapping[str, Any]]
"""Task -> name of each published configuration -> its settings, which replace those of the task."""


def random_network(modality: str, name: str | None, published: Published) -> Recipe:
    """Return the recipe whose network begins with random weights. `name`: --recipe; None: the default one. Raises: ConfigError if it names
    no network."""
    networks, name = RECIPES[modality], name or default_recipe(modality)
    if any(name in configurations for configurations in published.values()):
        raise ConfigError(
            f"--recipe {name}: is a published configuration for a pre-trained network, and --from is random; name a network "
            f"({', '.join(networks)}) and give numbers with --set, or give --from RUN"
        )
    return named_recipe(name, networks)


def unfrozen(recipe: Recipe) -> Recipe:
    """Return the recipe of a task with all parts trained from the first update on, since frozen random parts would stay random."""
    assert isinstance(recipe.objective, SupervisedConfig)
    return replace(recipe, objective=replace(recipe.objective, frozen="nothing", frozen_steps=0))


def choose_settings(task: str, own: Any, name: str | None, published: Published) -> Any:
    """Return the settings for a pre-trained network: those of the published configuration `name` (--recipe) of the task, or `own` if
    --recipe was not given (None). Raises: ConfigError if the task has no such configuration."""
    configurations = published.get(task, {})
    if name is None:
        return own
    if name in configurations:
        return configurations[name]
    there = (
        f"the published configurations of --task {task} are {', '.join(configurations)}" if configurations else f"--task {task} has none"
    )
    raise ConfigError(f"--recipe {name}: --from names the network already, and no published configuration has this name; {there}")
