"""The only table of modalities, one line each. Does not import torch."""

from recipes.errors import ConfigError
from recipes.modalities.base import Modality
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
