"""Dropout whose randomness is counted, not carried: every draw is a function of (seed, update, micro-batch, DP rank, call
site), and of the TP rank where the tensor is split. Nothing has to be saved to resume or to recompute an activation."""

import hashlib
import struct
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERDROP_SITE = -1


@dataclass
class DropoutStream:
    """The counters behind every draw of one student. The loop moves `update` and `micro_batch` before each forward."""

    seed: int = 0
    dp_rank: int = 0
    tp_rank: int = 0
    update: int = 0
    micro_batch: int = 0

    def reseed(self, site: int, split: bool, device: torch.device) -> None:
        """Point the device's default generator at this draw. Under TP, ranks that hold the same activation (split False)
        draw the same mask, ranks that hold different slices draw different ones."""
        key = _hash(self.seed, self.update, self.micro_batch, self.dp_rank, site, self.tp_rank + 1 if split else 0) >> 1
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
        else:
            torch.default_generator.manual_seed(key)


def is_dropped(stream: DropoutStream, prob: float, index: int) -> bool:
    """Whether block `index` is skipped in this micro-batch: the same answer on every rank, so that all gather the same
    weights in the same order."""
    return _hash(stream.seed, stream.update, stream.micro_batch, LAYERDROP_SITE, index) / 2**64 < prob


def _hash(*counters: int) -> int:
    """64 bits that are a function of the counters."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(counters)}q", *counters), digest_size=8).digest(), "little")


class Dropout(nn.Module):
    """Dropout at one call site, a number that no other site of the model has."""

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
        """x with a share `prob` of its entries dropped and the rest scaled up; any shape."""
        prob = self.start(x.device)
        return F.dropout(x, prob, training=True) if prob else x


class DropPath(nn.Module):
    """Stochastic depth: a residual branch is dropped for a share `prob` of the samples and scaled up for the others. TP
    ranks hold the same samples and so drop the same ones. Source: BEiT's DropPath."""

    def __init__(self, prob: float, stream: DropoutStream, site: int) -> None:
        super().__init__()
        self.dropout = Dropout(prob, stream, site)

    def forward(self, x_SBD: Tensor) -> Tensor:
        """Shapes: (S, B, D) -> (S, B, D)."""
        if not self.dropout.training or self.dropout.prob == 0:
            return x_SBD
        return x_SBD * self.dropout(x_SBD.new_ones(1, x_SBD.shape[1], 1))
