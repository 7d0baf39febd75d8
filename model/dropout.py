"""Dropout without generator state: every draw is a function of (seed, update, micro-batch, DP rank, call site), and of the TP
rank if the tensor is split. So nothing has to be saved to resume a run or to recompute an activation."""

import hashlib
import struct
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERDROP_SITE = -1


@dataclass
class DropoutStream:
    """The numbers that determine every random draw of one network's dropout. The training loop sets `update` and `micro_batch` before
    each forward."""

    seed: int = 0
    dp_rank: int = 0
    tp_rank: int = 0
    update: int = 0
    micro_batch: int = 0

    def reseed(self, site: int, split: bool, device: torch.device) -> None:
        """Seed torch's default generator of `device` for the dropout layer with the number `site`. Ranks of one tensor-parallel group
        then draw the same mask (split False: they hold the same tensor) or different masks (split True: they hold different slices)."""
        key = _hash(self.seed, self.update, self.micro_batch, self.dp_rank, site, self.tp_rank + 1 if split else 0) >> 1
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
        else:
            torch.default_generator.manual_seed(key)


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

    def start(self, device: torch.device) -> float:
        """Seed the device's generator for this place, and return the dropout probability to use now: 0 in eval mode, else `prob`."""
        if not self.training or self.prob == 0:
            return 0.0
        self.stream.reseed(self.site, self.split, device)
        return self.prob

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of any shape. In training each entry is 0 with probability `prob` and scaled by 1 / (1 - prob) otherwise."""
        prob = self.start(x.device)
        return F.dropout(x, prob, training=True) if prob else x


class DropPath(nn.Module):
    """Stochastic depth: in training, a residual branch is set to 0 with probability `prob` for each sample, and scaled by 1 / (1 - prob)
    otherwise. All ranks of a tensor-parallel group drop the same samples. Source: BEiT's DropPath."""

    def __init__(self, prob: float, stream: DropoutStream, site: int) -> None:
        super().__init__()
        self.dropout = Dropout(prob, stream, site)

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Return the branch's output with some samples set to 0 and the others scaled up; unchanged in eval mode.
        Shapes: (sequence, batch, channels) in and out."""
        if not self.dropout.training or self.dropout.prob == 0:
            return x_SBD
        return x_SBD * self.dropout(x_SBD.new_ones(1, x_SBD.shape[1], 1))
