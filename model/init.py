"""Parameter initialisation drawn from (seed, parameter name, place in the parameter), so it depends neither on the order of construction
nor on the number of ranks, and a rank can draw its own part alone. Holds no published values: those are in model/config.py."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from model.products import Linear
from model.slices import FlatRange, copy_common

BLOCK = 1 << 18
"""Values that one generator draws. Another number gives other initial values."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Draws random values: (generator, their number) -> float32 array."""


@dataclass(frozen=True)
class Init:
    """The seed and the name of a parameter. Both determine its initial values. `at` appends to the name; the `fill_*` methods write the
    values.

    The flattened parameter, without any split, is cut into blocks of BLOCK values. Block number k has a random generator of its own, whose
    key is a hash of seed and name and whose counter starts at k * 2^192. So a value is a function of seed, name and place.

    A tensor of more than two dimensions (a convolution) is a matrix: its rows are the first dimension, its columns all others.
    """

    seed: int
    path: str = ""
    share: tuple[int, int] | None = (0, 1)
    """Which part of each flattened parameter (of each slice, under tensor parallelism) gets values: (number of the part, number of equal
    parts). It is the part that ZeRO leaves on this rank. None: none, since the caller sets all values. All others stay as they are."""

    def at(self, *names: str | int) -> "Init":
        """Return an Init with the same seed and with `names` appended to the name: at("layers", 0) appends `.layers.0`."""
        return replace(self, path=".".join([self.path, *map(str, names)]))

    def whole(self) -> "Init":
        """Return an Init that writes all values of a parameter, for one whose values are read in the constructor."""
        return replace(self, share=self.share and (0, 1))

    def fill_normal(self, tensor: Tensor, std: float | None, *, scale: float = 1.0, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill `tensor` with draws from N(0, std^2), times `scale`. It is a whole matrix, or slice number `rank` of a matrix that is cut
        into `size` slices along `dim`. std None means 1/sqrt(columns of the whole matrix)."""
        self._fill(tensor, std, scale, lambda generator, count: generator.standard_normal(count, dtype=np.float32), dim, (rank, size))

    def fill_truncated(self, tensor: Tensor, std: float | None, *, scale: float = 1.0, dim: int = 0, rank: int = 0, size: int = 1) -> None:
        """Fill `tensor` with draws from N(0, std^2), without values beyond one std on either side (BEiT), times `scale`. It is a whole
        matrix, or slice number `rank` of a matrix that is cut into `size` slices along `dim`. std None means 1/sqrt(columns of the whole
        matrix)."""
        low, high = (0.5 * (1 + math.erf(bound / math.sqrt(2))) for bound in (-1.0, 1.0))

        def draw(generator: np.random.Generator, count: int) -> np.ndarray:
            share = torch.from_numpy(low + (high - low) * generator.random(count))
            return (torch.erfinv(2 * share - 1) * math.sqrt(2)).float().numpy()

        self._fill(tensor, std, scale, draw, dim, (rank, size))

    def fill_uniform(self, tensor: Tensor, low: float, high: float) -> None:
        """Fill a whole tensor with draws from the uniform distribution on [low, high)."""
        self._fill(tensor, 1.0, 1.0, lambda g, count: low + (high - low) * g.random(count, dtype=np.float32), 0, (0, 1))

    @torch.no_grad()
    def _fill(self, tensor: Tensor, std: float | None, scale: float, draw: Draw, dim: int, part: tuple[int, int]) -> None:
        """Fill this rank's share of `tensor`, which is one slice of a matrix that is cut along `dim`; `part` is (number of this slice,
        number of slices). `draw` makes the values of a block, and they are multiplied by `std` and `scale`."""
        rank, size = part
        width = tensor[0].numel() * (size if dim == 1 else 1)  # columns of the whole matrix
        columns = tensor.numel() * size if dim == 0 else width  # cut along its rows, the matrix is one long row
        whole = FlatRange(0, columns, 0, tensor.numel() * size)
        own = FlatRange(rank, columns // size, *self._part_of(tensor.numel()))
        factor = np.float32(1 / math.sqrt(width) if std is None else std)
        first, stop = whole.needed_by(own) or (0, 0)
        for number in range(first // BLOCK, -(-stop // BLOCK)):
            block = replace(whole, first=number * BLOCK, stop=min(whole.stop, (number + 1) * BLOCK))
            if block.needed_by(own):
                values = draw(self._generator(number), block.stop - block.first) * factor
                values = values if scale == 1 else values * np.float32(scale)
                copy_common(block, torch.from_numpy(values), own, tensor.view(-1)[own.first : own.stop])

    def _part_of(self, count: int) -> tuple[int, int]:
        """Return (first, stop) of the values that are written, of `count`. Source: deepspeed 0.19.8, partition_parameters.py,
        _partition_param."""
        number, parts = self.share or (1, 1)
        size = -(-count // parts)
        return min(count, number * size), min(count, (number + 1) * size)

    def _generator(self, block: int) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}:{self.path}".encode()).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")).advance(block << 192))


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
