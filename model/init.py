"""Parameter initialisation drawn from (seed, parameter name), so it depends neither on the order of construction nor on
the number of ranks. Holds no published values: those are in model/config.py."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

CHUNK = 1 << 20  # values drawn at a time, which bounds the extra host memory


@dataclass(frozen=True)
class Init:
    """A place in the model's tree of names; `at` goes down, `fill_normal` draws there."""

    seed: int
    path: str = ""

    def at(self, *names: str | int) -> "Init":
        """The place below this one."""
        return Init(self.seed, ".".join([self.path, *map(str, names)]))

    def fill_normal(self, tensor: Tensor, std: float | None, *, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill a matrix, or slice `rank` of `size` along `dim` of one, with N(0, std^2); std None is 1/sqrt(columns of the
        whole). The whole is drawn in chunks of rows and never held, so a slice costs no more memory than itself."""
        rows, columns = tensor.shape[0] * (size if dim == 0 else 1), tensor.shape[1] * (size if dim == 1 else 1)
        first_row = rank * tensor.shape[0] if dim == 0 else 0
        own_columns = slice(rank * tensor.shape[1], (rank + 1) * tensor.shape[1]) if dim == 1 else slice(None)
        scale = np.float32(1 / math.sqrt(columns) if std is None else std)
        digest = hashlib.sha256(f"{self.seed}:{self.path}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        step = max(1, CHUNK // columns)
        with torch.no_grad():
            for start in range(0, rows, step):
                drawn = generator.standard_normal((min(step, rows - start), columns), dtype=np.float32) * scale
                low, high = max(start, first_row), min(start + len(drawn), first_row + len(tensor))
                if low < high:
                    tensor[low - first_row : high - first_row].copy_(torch.from_numpy(drawn[low - start : high - start, own_columns]))


class ReplicatedLinear(nn.Linear):
    """nn.Linear held whole on every TP rank, drawn from its name; biases start at 0."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None) -> None:
        self._init, self._std = init.at("weight"), std
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Called by nn.Linear's constructor, the only moment when zero.Init lets a parameter be written."""
        self._init.fill_normal(self.weight.data, self._std)
        nn.init.zeros_(self.bias)
