"""Parameter initialisation drawn from (seed, parameter name), so it depends neither on the order of construction nor on
the number of ranks. Holds no published values: those are in model/config.py."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.products import Linear

CHUNK = 1 << 20  # values drawn at a time, which bounds the extra host memory

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Draws random values: (generator, shape) -> float32 array."""


@dataclass(frozen=True)
class Init:
    """The seed and the name of a parameter. Both determine its initial values. `at` appends to the name; the `fill_*` methods write the
    values.

    A tensor of more than two dimensions (a convolution) is drawn as a matrix: its rows are the first dimension, its columns all others.
    """

    seed: int
    path: str = ""

    def at(self, *names: str | int) -> "Init":
        """Return an Init with the same seed and with `names` appended to the name: at("layers", 0) appends `.layers.0`."""
        return Init(self.seed, ".".join([self.path, *map(str, names)]))

    def fill_normal(self, tensor: Tensor, std: float | None, *, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill `tensor` with draws from N(0, std^2). It is a whole matrix, or slice number `rank` of a matrix that is cut into `size`
        slices along `dim`. std None means 1/sqrt(columns of the whole matrix)."""
        self._fill(tensor, std, lambda generator, shape: generator.standard_normal(shape, dtype=np.float32), dim, (rank, size))

    def fill_truncated(self, tensor: Tensor, std: float | None, *, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill `tensor` with draws from N(0, std^2), without values beyond one std on either side (BEiT). It is a whole matrix, or slice
        number `rank` of a matrix that is cut into `size` slices along `dim`. std None means 1/sqrt(columns of the whole matrix)."""
        low, high = (0.5 * (1 + math.erf(bound / math.sqrt(2))) for bound in (-1.0, 1.0))

        def draw(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
            share = torch.from_numpy(low + (high - low) * generator.random(shape))
            return (torch.erfinv(2 * share - 1) * math.sqrt(2)).float().numpy()

        self._fill(tensor, std, draw, dim, (rank, size))

    def fill_uniform(self, tensor: Tensor, low: float, high: float) -> None:
        """Fill a whole tensor with draws from the uniform distribution on [low, high)."""
        self._fill(tensor, 1.0, lambda g, shape: low + (high - low) * g.random(shape, dtype=np.float32), 0, (0, 1))

    def _fill(self, tensor: Tensor, std: float | None, draw: Draw, dim: int, part: tuple[int, int]) -> None:
        """Fill `tensor`, which is one slice of a matrix that is cut along `dim`; `part` is (number of this slice, number of slices).
        `draw` makes the values of the whole matrix, a few rows at a time, and they are multiplied by `std`. No rank ever holds the whole
        matrix."""
        matrix, (rank, size) = tensor.view(len(tensor), -1), part
        rows, columns = matrix.shape[0] * (size if dim == 0 else 1), matrix.shape[1] * (size if dim == 1 else 1)
        first_row = rank * matrix.shape[0] if dim == 0 else 0
        own_columns = slice(rank * matrix.shape[1], (rank + 1) * matrix.shape[1]) if dim == 1 else slice(None)
        scale = np.float32(1 / math.sqrt(columns) if std is None else std)
        digest = hashlib.sha256(f"{self.seed}:{self.path}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        step = max(1, CHUNK // columns)
        with torch.no_grad():
            for start in range(0, rows, step):
                drawn = draw(generator, (min(step, rows - start), columns)) * scale
                low, high = max(start, first_row), min(start + len(drawn), first_row + len(matrix))
                if low < high:
                    matrix[low - first_row : high - first_row].copy_(torch.from_numpy(drawn[low - start : high - start, own_columns]))


class ReplicatedLinear(Linear):
    """A linear layer that every tensor-parallel rank holds whole. Weights are normal (`std`, None: 1/sqrt(in_features)); biases start at
    0."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None, *, truncated: bool = False) -> None:
        self._init, self._std, self._truncated = init.at("weight"), std, truncated
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Write the initial values. nn.Linear's constructor calls this method. Later no whole parameter can be written: DeepSpeed's
        zero.Init partitions them when the constructor returns."""
        fill = self._init.fill_truncated if self._truncated else self._init.fill_normal
        fill(self.weight.data, self._std)
        nn.init.zeros_(self.bias)


class UniformLinear(Linear):
    """A linear layer that every tensor-parallel rank holds whole. Weights and biases start uniform in +-1/sqrt(in_features), as torch's
    do."""

    def __init__(self, in_features: int, out_features: int, init: Init) -> None:
        self._init = init
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Write the initial values. nn.Linear's constructor calls this method. Later no whole parameter can be written: DeepSpeed's
        zero.Init partitions them when the constructor returns."""
        bound = 1 / math.sqrt(self.in_features)
        self._init.at("weight").fill_uniform(self.weight.data, -bound, bound)
        self._init.at("bias").fill_uniform(self.bias.data, -bound, bound)
