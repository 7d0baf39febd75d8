"""A model of another project as this project reads it, and the copy of its weights into a network. Nothing is written to the disk. What
becomes a run is in imported_run.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipes.config import Recipe
from recipes.interop.foreign_weights import ForeignWeights
from recipes.interop.imported_tokenizer import ImportedTokenizer


@dataclass(frozen=True)
class ImportedModel:
    """A model of another project that becomes a run."""

    recipe: Recipe
    template: Recipe
    """The recipe that gave what the source does not say."""
    student: ForeignWeights
    teacher: ForeignWeights | None
    """None: the teacher starts as a copy of the student."""
    may_lack: tuple[str, ...]
    """Beginnings of names of this project's tensors that the source may lack. They start as in a new run."""
    origin: dict[str, Any]
    """What the model is and where it comes from, for config.json and events.jsonl."""
    tokenizer: ImportedTokenizer = field(default_factory=ImportedTokenizer)
    source_config: bytes | None = None
    """config.json of a Hugging Face directory; None for other sources."""
    unread: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    """Name of the source -> function that reads the tensor, for those that this project has no place for and an export needs."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


@torch.no_grad()
def fill(parameters: Mapping[str, nn.Parameter], model: ImportedModel) -> list[str]:
    """Write the source's weights into the parameters of a network, by name, and return the names of those that it does not have. Raises:
    ConfigError if names, shapes or values do not fit."""
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    new = model.student.check_names(shapes, model.may_lack)
    for name in model.student.names:
        parameters[name].copy_(model.student.tensor(name, shapes[name]))
    if model.teacher:
        model.teacher.check_names(shapes, ("",))
    return new
