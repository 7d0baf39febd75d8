"""A process that is rank 0 of many ranks which do not exist: a process group that sends nothing, and a count of what would be sent."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from model.parallel import Parallel, Replicas
from recipes.ds_config import BatchPlan

KINDS = {
    **{"_allgather_base_": "all_gather", "allgather_": "all_gather", "allreduce_": "all_reduce", "broadcast_": "broadcast"},
    **{"_reduce_scatter_base_": "reduce_scatter", "reduce_scatter_": "reduce_scatter"},
}
"""Operator of torch's namespace c10d -> kind of collective."""


def join_fake_world(world_size: int) -> None:
    """Make this process rank 0 of `world_size` ranks, of which it is the only one."""
    os.environ.update(DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE=str(world_size), LOCAL_RANK="0", LOCAL_SIZE="8")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)


def fake_parallel(batch: BatchPlan) -> Parallel:
    """Return the groups of rank 0, without tensor parallelism."""
    alone, everyone = dist.new_group([0]), dist.group.WORLD
    assert everyone is not None and batch.tp_size == 1
    replicas = None
    if batch.num_replicas > 1:
        shard_group = dist.new_group(list(range(batch.shard_size)))
        replicas = Replicas(shard_group, dist.new_group(list(range(0, batch.dp_size, batch.shard_size))))
    return Parallel(alone, everyone, 1, 0, batch.dp_size, 0, replicas)


class Counted(TorchDispatchMode):
    """In this context, collectives are counted by kind and number of ranks: how often, and the bytes of the whole tensors. Also counts how
    often the host waits for a number of the device (`item`, `float`). Everything takes longer meanwhile, so time other updates."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, int]] = Counter()
        self.num_bytes: Counter[tuple[str, int]] = Counter()
        self.waits = 0
        self.is_paused = False
        """True: nothing is counted."""

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name  # type: ignore[attr-defined]
        if self.is_paused:
            pass
        elif name == "aten::_local_scalar_dense":
            self.waits += 1
        elif name.startswith("c10d::") and name.removeprefix("c10d::") in KINDS:
            values = torch.utils._pytree.tree_leaves(args)
            size = next(dist.ProcessGroup.unbox(value).size() for value in values if isinstance(value, torch.ScriptObject))
            key = KINDS[name.removeprefix("c10d::")], size
            sizes = [value.nbytes for value in values if isinstance(value, torch.Tensor)]
            self.counts[key] += 1
            self.num_bytes[key] += sum(sizes) - (min(sizes) if len(sizes) > 1 else 0)  # the smaller one is this rank's part
        return func(*args, **(kwargs or {}))
