"""The weights of an engine that is not trained: when they are gathered, and what follows a write into their shards."""

from typing import Protocol

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from recipes.engine import overrides, shards

ALIGNMENT = 64
"""Each weight begins at a multiple of this many values, as if it were allocated by itself: some kernels need it."""


class Gathering(Protocol):
    """When the weights of an engine that is not trained are gathered."""

    def start(self) -> None:
        """Begin to gather ahead of the next forward, if the weights have changed. A collective. The host does not wait."""

    def outdate(self) -> None:
        """Take note that the shards were written, on the current stream."""


class LayerGathering:
    """DeepSpeed gathers each layer when the forward reaches it, and releases it behind it."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine

    def start(self) -> None:
        """Do nothing: DeepSpeed's hooks gather."""

    def outdate(self) -> None:
        """Make the next gathers wait for the write."""
        shards.order_gathers(self._engine)


class WholeGathering:
    """All weights are gathered in one collective, ahead of the first forward after a write, and kept until the next write. So each rank
    has the whole network, and during the gather a second time, in the order in which the shards arrive.

    The gather has a stream and a process group of its own. So it can run while the forward of another network computes.
    """

    def __init__(self, engine: DeepSpeedEngine, ranks: dist.ProcessGroup) -> None:
        """Take over the gathering of `engine` from DeepSpeed. `ranks`: those that shard its weights, in a group of its own. A single rank
        gathers nothing: its shards are the weights."""
        self._ranks, self._size, self._stream = ranks, dist.get_world_size(ranks), shards.gather_stream(engine)
        self._shards = [shards.compute_shard(parameter) for _, parameter in shards.named_parameters(engine)]
        lengths = [self._size * shard.numel() for shard in self._shards]
        places = [-(-length // ALIGNMENT) * ALIGNMENT for length in lengths]
        whole = self._shards if self._size == 1 else self._shards[0].new_empty(sum(places)).split(places)
        self._whole = [part[:length].view(self._size, -1) for part, length in zip(whole, lengths, strict=True)]
        overrides.keep_whole(engine, self._whole)
        self._arriving: tuple[Tensor, dist.Work] | None = None
        self._is_current = False
        engine.module.register_forward_pre_hook(lambda *_: self._finish())

    def start(self) -> None:
        """Begin to gather if the weights have changed since the last gather. A collective. The host does not wait."""
        if self._is_current or self._arriving or self._size == 1:
            return
        if self._stream is not None:
            self._stream.wait_stream(get_accelerator().current_stream())
        with get_accelerator().stream(self._stream):
            own = torch.cat(self._shards)
            gathered = own.new_empty(self._size * own.numel())
            work = dist.all_gather_into_tensor(gathered, own, group=self._ranks, async_op=True)
        self._arriving = gathered, work

    def outdate(self) -> None:
        """Gather again before the next forward."""
        assert self._arriving is None, "the shards were written while they were gathered"
        self._is_current = False

    @torch.no_grad()
    def _finish(self) -> None:
        """Make the current stream wait for the whole weights."""
        if self._is_current or self._size == 1:
            return
        self.start()
        assert self._arriving is not None
        (gathered, work), self._arriving, self._is_current = self._arriving, None, True
        with get_accelerator().stream(self._stream):
            work.wait()
            columns = gathered.view(self._size, -1).split([shard.numel() for shard in self._shards], dim=1)
            torch._foreach_copy_(self._whole, list(columns))
        if self._stream is not None:
            get_accelerator().current_stream().wait_stream(self._stream)
