"""The tensors of an exported model: names and shapes that transformers' class expects, and values from a checkpoint. One tensor is held at
a time. Writes nothing."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from recipes.checkpoint.layout import Manifest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.hf_format import HfFormat
from recipes.interop.hf_text import TOKEN_TYPES, TOKENS, unfold_token_types
from recipes.interop.import_source import ImportSource
from recipes.interop.shapes import Shapes
from recipes.interop.stored_weights import StoredWeights

ROWS = 4096
"""Rows of the token table that are converted at a time."""


class HfTensors:
    """The tensors of one network of a run under transformers' names."""

    def __init__(self, stored: StoredWeights, hf_format: HfFormat, recipe: Recipe, config: dict[str, Any], source: ImportSource) -> None:
        """`config`: the export's config.json. `source`: what an imported run has kept of its source."""
        self.shapes: Shapes = hf_format.shapes(config)
        """Name -> shape of every tensor of the export."""
        self._stored, self._format, self._source = stored, hf_format, source
        self._names = hf_format.names(recipe)
        self._held: dict[str, Tensor] = {}

    @property
    def manifest(self) -> Manifest:
        """The checkpoint's manifest: counters, and facts about the run."""
        return self._stored.manifest

    @property
    def untrained(self) -> list[str]:
        """Names of tensors that neither the run nor its source has: transformers' class has them, data2vec has not."""
        return [name for name in self.shapes if self._names.our_name(name) is None and name not in self._source.names]

    @property
    def left_out(self) -> list[str]:
        """Names of the run's parameters that transformers' class has no place for."""
        exported = {self._names.our_name(name) for name in self.shapes}
        return [name for name in self._stored.names if name not in exported]

    def check(self) -> None:
        """Check that the checkpoint has every tensor of this project that the export needs. Raises: ConfigError."""
        there = set(self._stored.names)
        for name in self.shapes:
            ours = self._names.our_name(name)
            if ours is not None and ours not in there:
                raise ConfigError(f"{self._stored.checkpoint}: has no parameter {ours}; it is a checkpoint of another architecture")

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors in the order of `shapes`. When the next tensor is taken, the memory of the one before is freed here, since
        the writer still holds it. Raises: ConfigError, DamagedCheckpoint."""
        for name, shape in self.shapes.items():
            tensor = self._tensor(name).detach()
            if tensor.shape != shape:
                raise ConfigError(
                    f"{self._stored.checkpoint}: gives {name} of shape {tuple(tensor.shape)}, config.json needs {shape}; "
                    "the run's config.json belongs to another model"
                )
            yield tensor
            tensor.data = tensor.new_empty(0)

    def _tensor(self, name: str) -> Tensor:
        ours = self._names.our_name(name)
        if ours is None:
            if name in self._source.names:
                return self._source.tensor(name)
            assert self._format.untrained is not None, name
            return self._format.untrained(name, self.shapes[name])
        if ours not in self._held:
            self._held.clear()  # before the next one is read; the parts of a fused tensor stand side by side
            self._held[ours] = self._stored.tensor(ours)
        tensor = self._names.to_theirs(self._held, [name])[name]
        if name == TOKENS and TOKENS in self._source.names:
            self._unfold(tensor)
        return tensor

    def _unfold(self, tokens: Tensor) -> None:
        token_type = self._source.rows(TOKEN_TYPES, 0, 1)[0]
        for first in range(0, len(tokens), ROWS):
            part = tokens[first : first + ROWS]
            unfold_token_types(part, self._source.rows(TOKENS, first, first + len(part)), token_type)
