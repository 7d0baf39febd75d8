"""The parameters of a network as names and shapes. Torch-free arithmetic, which changes with the modules that it describes; a test compares
the two.

Shapes of the whole network: a rank of a tensor-parallel (TP) group holds a part of those that are split.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class ParameterShape(NamedTuple):
    """A parameter: its name, the shape of the whole, and the dimension that is split over the TP group (None: every TP rank holds it
    whole)."""

    name: str
    shape: tuple[int, ...]
    split_dim: int | None = None
    num_unused: int = 0
    """Elements that belong to no symbol, such as rows that pad a table of tokens. They are held, but do not count as parameters."""

    def numel(self, tp_size: int = 1) -> int:
        """Return the elements that one of `tp_size` TP ranks holds."""
        return math.prod(self.shape) // (1 if self.split_dim is None else tp_size)

    @property
    def num_parameters(self) -> int:
        """Elements of the whole, without those that are not used."""
        return math.prod(self.shape) - self.num_unused

    def inside(self, module: str) -> "ParameterShape":
        """Return the same parameter with the name that it has in a network of which `module` is a part."""
        return self._replace(name=f"{module}.{self.name}")


def count_parameters(shapes: Iterable[ParameterShape]) -> int:
    """Return the number of parameters of the whole network, without elements that are not used."""
    return sum(shape.num_parameters for shape in shapes)


def vectors(size: int, *names: str) -> list[ParameterShape]:
    """Return parameters of one dimension, each of `size` elements, that every TP rank holds whole."""
    return [ParameterShape(name, (size,)) for name in names]


def linear_layers(widths: Sequence[int]) -> list[ParameterShape]:
    """Return the parameters of linear layers one after another, layers.0, layers.1 and so on. `widths`: channels before and after each."""
    both = [
        (ParameterShape(f"layers.{i}.weight", (outputs, inputs)), ParameterShape(f"layers.{i}.bias", (outputs,)))
        for i, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    return [shape for pair in both for shape in pair]
