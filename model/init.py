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


@dataclass(frozen=True)
class Init:
    """A place in the model's tree of names; `at` goes down, `normal` draws there."""

    seed: int
    path: str = ""

    def at(self, *names: str | int) -> "Init":
        """The place below this one."""
        return Init(self.seed, ".".join([self.path, *map(str, names)]))

    def normal(self, std: float | None, zero_rows: slice | list[int] | None = None) -> Callable[[Tensor], Tensor]:
        """A function that fills a whole (not TP-sliced) tensor with N(0, std^2); std None is 1/sqrt(columns). Rows in
        `zero_rows` are then set to 0."""

        def fill(tensor: Tensor) -> Tensor:
            scale = 1 / math.sqrt(tensor.shape[-1]) if std is None else std
            digest = hashlib.sha256(f"{self.seed}:{self.path}".encode()).digest()
            generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
            with torch.no_grad():
                flat = tensor.view(-1)
                for start in range(0, flat.numel(), CHUNK):
                    part = flat[start : start + CHUNK]
                    part.copy_(torch.from_numpy(generator.standard_normal(part.numel(), dtype=np.float32) * np.float32(scale)))
                if zero_rows is not None:
                    tensor[zero_rows] = 0
            return tensor

        return fill


class ReplicatedLinear(nn.Linear):
    """nn.Linear held whole on every TP rank, drawn from its name; biases start at 0."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None) -> None:
        self._fill = init.at("weight").normal(std)
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        """Called by nn.Linear's constructor, the only moment when zero.Init lets a parameter be written."""
        self._fill(self.weight.data)
        nn.init.zeros_(self.bias)
