"""Parameter initialisation drawn from (seed, parameter name), so it depends neither on the order of construction nor on
the number of ranks. Holds no published values: those are in model/config.py."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

CHUNK = 1 << 20  # values drawn at a time, which bounds the extra host memory

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""(generator, shape) -> float32 values."""


@dataclass(frozen=True)
class Init:
    """A path in the tree of parameter names. `at` returns a path below it; `fill_*` draw values for it.

    A tensor of more than two dimensions (a convolution) is drawn as a matrix of its first dimension by all the others.
    """

    seed: int
    path: str = ""

    def at(self, *names: str | int) -> "Init":
        """Return the path `names` below this one."""
        return Init(self.seed, ".".join([self.path, *map(str, names)]))

    def fill_normal(self, tensor: Tensor, std: float | None, *, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill `tensor` with N(0, std^2): a whole matrix, or slice `rank` of `size` slices of a matrix along `dim`. std None means
        1/sqrt(columns of the whole matrix)."""
        self._fill(tensor, std, lambda generator, shape: generator.standard_normal(shape, dtype=np.float32), dim, (rank, size))

    def fill_truncated(self, tensor: Tensor, std: float | None, *, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Like fill_normal, but the normal distribution is cut at one std on either side, as in BEiT."""
        low, high = (0.5 * (1 + math.erf(bound / math.sqrt(2))) for bound in (-1.0, 1.0))

        def draw(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
            share = torch.from_numpy(low + (high - low) * generator.random(shape))
            return (torch.erfinv(2 * share - 1) * math.sqrt(2)).float().numpy()

        self._fill(tensor, std, draw, dim, (rank, size))

    def fill_uniform(self, tensor: Tensor, low: float, high: float) -> None:
        """Fill a whole tensor with U[low, high)."""
        self._fill(tensor, 1.0, lambda g, shape: low + (high - low) * g.random(shape, dtype=np.float32), 0, (0, 1))

    def _fill(self, tensor: Tensor, std: float | None, draw: Draw, dim: int, part: tuple[int, int]) -> None:
        """Draw the whole matrix in chunks of rows and keep only this slice, so that no rank holds the whole matrix."""
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


class ReplicatedLinear(nn.Linear):
    """nn.Linear held whole on every TP rank, drawn from its name; biases start at 0."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None, *, truncated: bool = False) -> None:
        self._init, self._std, self._truncated = init.at("weight"), std, truncated
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Called by nn.Linear's constructor, the only time at which zero.Init allows writing a parameter."""
        fill = self._init.fill_truncated if self._truncated else self._init.fill_normal
        fill(self.weight.data, self._std)
        nn.init.zeros_(self.bias)


class UniformLinear(nn.Linear):
    """nn.Linear held whole on every TP rank, with torch's initial values: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias."""

    def __init__(self, in_features: int, out_features: int, init: Init) -> None:
        self._init = init
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """See ReplicatedLinear."""
        bound = 1 / math.sqrt(self.in_features)
        self._init.at("weight").fill_uniform(self.weight.data, -bound, bound)
        self._init.at("bias").fill_uniform(self.bias.data, -bound, bound)
