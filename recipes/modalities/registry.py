"""The only table of modalities, one line each. Does not import torch."""

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.base import DataSource, Modality
from recipes.modalities.speech import Speech
from recipes.modalities.text import Text
from recipes.modalities.vision import Vision
from recipes.settings import import_object

MODALITIES: dict[str, Modality] = {"text": Text(), "speech": Speech(), "vision": Vision()}


def modality_of(name: str, where: str) -> Modality:
    """Return the modality with this name: text, speech, vision, or `module:Name` of an object to import. Raises: ConfigError if there is
    none. Its message begins with `where`, the place of the name."""
    if name in MODALITIES:
        return MODALITIES[name]
    if ":" in name:
        return import_object(name, f"{where}: modality", f"one of {', '.join(MODALITIES)}")
    raise ConfigError(f"{where}: modality {name!r} is not known to this release, which has {', '.join(MODALITIES)}")


def source_of(recipe: Recipe) -> DataSource:
    """Return the source of the recipe's data: that of labelled data if its section `data` is of such a kind, else the modality. Raises:
    ConfigError if the modality is not known."""
    modality = modality_of(recipe.modality, f"recipe {recipe.name}")
    return modality.labelled.get(type(recipe.data), modality)
