"""Every recipe by modality, and each modality's default. Torch-free."""

from collections.abc import Callable

from recipes import speech, text, vision
from recipes.config import Recipe

RECIPES: dict[str, dict[str, Callable[[], Recipe]]] = {"text": text.RECIPES, "speech": speech.RECIPES, "vision": vision.RECIPES}


def default_recipe(modality: str) -> str:
    """The name of the recipe that runs where none is named: the one that trains in minutes."""
    return f"{modality}_tiny"
