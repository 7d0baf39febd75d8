"""Dropout without generator state: every draw is a function of (seed, update, micro-batch, DP rank, call site), and of the TP
rank if the tensor is split. So nothing has to be saved to resume a run or to recompute an activation."""

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.subset import PositionSubset

LAYERDROP_SITE = -1
LEVELS = 1 << 16
"""On a CPU a draw is a 16-bit number, so a dropout probability is rounded to a multiple of 1 / LEVELS."""


@dataclass
class DropoutStream:
    """The numbers that determine every random draw of one network's dropout. The training loop sets `update` and `micro_batch` before
    each forward."""

    seed: int = 0
    dp_rank: int = 0
    tp_rank: int = 0
    update: int = 0
    micro_batch: int = 0

    def key(self, site: int, split: bool) -> int:
        """Return the seed of the dropout layer with the number `site`. Ranks of one tensor-parallel group have the same one (split False:
        they hold the same tensor) or different ones (split True: they hold different slices)."""
        return _hash(self.seed, self.update, self.micro_batch, self.dp_rank, site, self.tp_rank + 1 if split else 0) >> 1


def is_dropped(stream: DropoutStream, prob: float, index: int) -> bool:
    """True if layer drop skips block number `index` in this micro-batch, with probability `prob`. It is the same on every rank, so that
    all ranks gather the same weights in the same order."""
    return _hash(stream.seed, stream.update, stream.micro_batch, LAYERDROP_SITE, index) / 2**64 < prob


def _hash(*counters: int) -> int:
    """Return a 64-bit hash of some integers, from 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(counters)}q", *counters), digest_size=8).digest(), "little")


class Dropout(nn.Module):
    """Dropout at one place of the model. `site` is the number of the place; each place has its own. `split`: the tensor is a slice of a
    tensor-parallel group, so each rank draws a different mask."""

    def __init__(self, prob: float, stream: DropoutStream, site: int, *, split: bool = False) -> None:
        super().__init__()
        self.prob, self.stream, self.site, self.split = prob, stream, site, split

    @property
    def prob_now(self) -> float:
        """The dropout probability to use now: 0 in eval mode, else `prob`."""
        return self.prob if self.training else 0.0

    def start(self) -> float:
        """Seed torch's generator of the current CUDA device for this place, and return the dropout probability to use now."""
        if self.prob_now:
            torch.cuda.manual_seed(self.stream.key(self.site, self.split))
        return self.prob_now

    def draws(self) -> "Draws":
        """Return the random numbers of this place on a CPU, from the first one on."""
        return Draws(self.stream.key(self.site, self.split), self.prob)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of any shape. In training each entry is 0 with probability `prob` and scaled by 1 / (1 - prob) otherwise."""
        if not self.prob_now:
            return x
        if x.device.type == "cpu":
            return Dropped.apply(x, self.draws())
        return F.dropout(x, self.start(), training=True)


class Draws:
    """Random numbers of one place of dropout on a CPU. torch draws its masks there with 53 random bits for each entry, in one thread;
    16 bits are enough, and numpy's generator is faster. `scale` is 1 / (1 - probability), for the probability that is drawn."""

    def __init__(self, key: int, prob: float) -> None:
        self._generator = np.random.SFC64(key)
        dropped = min(round(prob * LEVELS), LEVELS - 1)
        self._first_kept, self.scale = dropped - LEVELS // 2, LEVELS / (LEVELS - dropped)

    def keep(self, out: Tensor) -> Tensor:
        """Fill `out` with 1 where an entry is kept and 0 where it is dropped, and return it. Each call draws new numbers."""
        count = out.numel()
        words = self._generator.random_raw(-(-count // 4))
        levels = torch.from_numpy(words.view(np.int16))[:count].view(out.shape)
        return torch.ge(levels, self._first_kept, out=out)


class Dropped(torch.autograd.Function):
    """Dropout with a mask of Draws."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, draws: Draws) -> Tensor:
        """Return `x` with some entries set to 0 and the others scaled up. The shape stays."""
        keep = draws.keep(torch.empty_like(x, memory_format=torch.contiguous_format))
        ctx.save_for_backward(keep)
        ctx.scale = draws.scale
        return (x * keep).mul_(draws.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of `x`."""
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep).mul_(ctx.scale), None


class DropPath(nn.Module):
    """Stochastic depth: in training, a residual branch is set to 0 with probability `prob` for each sample, and scaled by 1 / (1 - prob)
    otherwise. All ranks of a tensor-parallel group drop the same samples. Source: BEiT's DropPath."""

    def __init__(self, prob: float, stream: DropoutStream, site: int) -> None:
        super().__init__()
        self.dropout = Dropout(prob, stream, site)

    def forward(self, x_SBD: Tensor, subset: PositionSubset | None = None) -> Tensor:
        """Return the branch's output with some samples set to 0 and the others scaled up; unchanged in eval mode. `subset`: the
        positions in x; None: all. Shapes: (sequence, batch, channels) in and out, (positions, 1, channels) with a subset."""
        if not self.dropout.training or self.dropout.prob == 0:
            return x_SBD
        factor_1B1 = self.dropout(x_SBD.new_ones(1, subset.batch_size if subset else x_SBD.shape[1], 1))
        return x_SBD * (subset.spread(factor_1B1) if subset else factor_1B1)
