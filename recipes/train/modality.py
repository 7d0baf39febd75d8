"""What one modality brings to the common loop: how to build its front-end and its data. The only table of modalities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from model.frontends.text import TextFrontend
from model.student import FrontendBuilder
from recipes.config import Recipe


@dataclass(frozen=True)
class Modality:
    """The objects in which modalities differ."""

    frontend: Callable[[Recipe], FrontendBuilder]


MODALITIES: dict[str, Modality] = {
    "text": Modality(frontend=lambda recipe: partial(TextFrontend, recipe.frontend)),
}
