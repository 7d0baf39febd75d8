"""How the tests of recipes compare a few named numbers of a recipe with the published ones."""

from typing import Any

from recipes.config import Recipe

Numbers = dict[str, dict[str, Any]]
"""Dotted name of a section -> its keys -> values."""


def numbers_of(recipe: Recipe, like: Numbers) -> Numbers:
    """The recipe's values under the names of `like`."""
    found = {}
    for path, keys in like.items():
        section: Any = recipe
        for name in path.split("."):
            section = getattr(section, name)
        found[path] = {key: getattr(section, key) for key in keys}
    return found
