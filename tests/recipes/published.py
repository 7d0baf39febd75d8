"""Helps the tests of recipes to compare named numbers of a recipe with the published ones."""

from typing import Any

from recipes.config import Recipe

Numbers = dict[str, dict[str, Any]]
"""Dotted name of a section of a recipe -> name of a setting -> value."""


def numbers_of(recipe: Recipe, like: Numbers) -> Numbers:
    """Return the values that the recipe has for the settings named in `like`, in the same form."""
    found = {}
    for path, keys in like.items():
        section: Any = recipe
        for name in path.split("."):
            section = getattr(section, name)
        found[path] = {key: getattr(section, key) for key in keys}
    return found
