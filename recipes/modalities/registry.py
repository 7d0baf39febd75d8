"""The only table of modalities: one line each. Torch-free."""

from recipes.errors import ConfigError
from recipes.modalities.base import Modality
from recipes.modalities.speech import Speech
from recipes.modalities.text import Text
from recipes.modalities.vision import Vision

MODALITIES: dict[str, Modality] = {"text": Text(), "speech": Speech(), "vision": Vision()}


def modality_of(name: str, where: str) -> Modality:
    """The modality of this name. Raises: ConfigError, whose line begins with `where`."""
    if name not in MODALITIES:
        raise ConfigError(f"{where}: modality {name!r} is not known to this release; it knows {', '.join(MODALITIES)}")
    return MODALITIES[name]
