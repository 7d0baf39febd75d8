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
    """The counters that determine every draw of one student. The loop sets `update` and `micro_batch` before each forward."""

    seed: int = 0
    dp_rank: int = 0
    tp_rank: int = 0
    update: int = 0
    micro_batch: int = 0

    def reseed(self, site: int, split: bool, device: torch.device) -> None:
        """Seed the device's default generator for this draw. Under TP, ranks that hold the same activation (split False)
        draw the same mask, and ranks that hold different slices (split True) draw different masks."""
        key = _hash(self.seed, self.update, self.micro_batch, self.dp_rank, site, self.tp_rank + 1 if split else 0) >> 1
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
        else:
            torch.default_generator.manual_seed(key)


def is_dropped(stream: DropoutStream, prob: float, index: int) -> bool:
    """True if block `index` is skipped in this micro-batch. The result is the same on every rank, so that all ranks gather the
    same weights in the same order."""
    return _hash(stream.seed, stream.update, stream.micro_batch, LAYERDROP_SITE, index) / 2**64 < prob


def _hash(*counters: int) -> int:
    """Return a 64-bit hash of the counters."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(counters)}q", *counters), digest_size=8).digest(), "little")


class Dropout(nn.Module):
    """Dropout at one call site. `site` is a number that no other call site of the model has."""

    def __init__(self, prob: float, stream: DropoutStream, site: int, *, split: bool = False) -> None:
        super().__init__()
        self.prob, self.stream, self.site, self.split = prob, stream, site, split

    def start(self, device: torch.device) -> float:
        """Reseed for this site and return the probability to use now, which is 0 outside training."""
        if not self.training or self.prob == 0:
            return 0.0
        self.stream.reseed(self.site, self.split, device)
        return self.prob

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share `prob` of its entries set to 0 and the others scaled up. Any shape."""
        prob = self.start(x.device)
        return F.dropout(x, prob, training=True) if prob else x


class DropPath(nn.Module):
    """Stochastic depth: a residual branch is dropped for a share `prob` of the samples and scaled up for the others. The
    ranks of a TP group hold the same samples and drop the same ones. Source: BEiT's DropPath."""

    def __init__(self, prob: float, stream: DropoutStream, site: int) -> None:
        super().__init__()
        self.dropout = Dropout(prob, stream, site)

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Shapes: (S, B, D) -> (S, B, D)."""
        if not self.dropout.training or self.dropout.prob == 0:
            return x_SBD
        return x_SBD * self.dropout(x_SBD.new_ones(1, x_SBD.shape[1], 1))
