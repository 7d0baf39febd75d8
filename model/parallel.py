"""The tensor-parallel and data-parallel groups of a run's ranks, and the `mpu` object that DeepSpeed takes.

Only this file makes process groups for the model. Layers get their groups as arguments.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh

ALONE = threading.RLock()
"""Held in each block of having_a_world(), because torch.distributed is initialised for all threads of the process at once."""


@dataclass(frozen=True)
class Replicas:
    """This rank's groups if the model exists in several copies: the data-parallel ranks that shard its copy, and the ranks that hold the
    same shards of the other copies."""

    shard_group: ProcessGroup
    replica_group: ProcessGroup


@dataclass(frozen=True)
class Parallel:
    """This rank's tensor-parallel (TP) and data-parallel (DP) groups, and its index in them. Global rank = dp_rank * tp_size + tp_rank,
    so neighbouring ranks form a TP group."""

    tp_group: ProcessGroup
    dp_group: ProcessGroup
    tp_size: int
    tp_rank: int
    dp_size: int
    dp_rank: int
    replicas: Replicas | None = None
    """None: one copy of the model, sharded over the whole DP group."""

    @property
    def shard_group(self) -> ProcessGroup:
        """The data-parallel ranks over which ZeRO shards one copy of the model."""
        return self.replicas.shard_group if self.replicas else self.dp_group

    @property
    def shard_size(self) -> int:
        """The number of ranks in the shard group."""
        return dist.get_world_size(self.shard_group)

    @property
    def shard_rank(self) -> int:
        """This rank's index in the shard group."""
        return self.dp_rank % self.shard_size

    @property
    def replica_rank(self) -> int:
        """The number, from 0, of the copy of the model that this rank has a part of."""
        return self.dp_rank // self.shard_size

    def second_shard_group(self) -> ProcessGroup:
        """Make another group of the ranks of the shard group, whose collectives do not wait for those of the first. A collective of all
        ranks of the run."""
        ranks = torch.arange(dist.get_world_size()).view(-1, self.shard_size, self.tp_size)
        return _group_along(ranks.transpose(1, 2))

    # DeepSpeed's `mpu` interface, under the names it looks for.
    def get_model_parallel_group(self) -> ProcessGroup:
        """Return this rank's tensor-parallel group, which DeepSpeed calls model parallel."""
        return self.tp_group

    def get_model_parallel_rank(self) -> int:
        """Return this rank's index in its tensor-parallel group."""
        return self.tp_rank

    def get_model_parallel_world_size(self) -> int:
        """Return the number of ranks in a tensor-parallel group."""
        return self.tp_size

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> ProcessGroup:
        """Return this rank's data-parallel group: the ranks that read different samples."""
        return self.dp_group

    def get_data_parallel_rank(self) -> int:
        """Return this rank's index in its data-parallel group."""
        return self.dp_rank

    def get_data_parallel_world_size(self) -> int:
        """Return the number of ranks in a data-parallel group."""
        return self.dp_size


def init_parallel(tp_size: int, device_type: str, num_replicas: int = 1) -> Parallel:
    """Make this run's process groups: each `tp_size` neighbouring ranks form a tensor-parallel group, and ranks with the same index in
    these groups form a data-parallel group. Each `num_replicas`-th part of a data-parallel group, of neighbouring ranks, shards a copy of
    the model. A collective, after torch.distributed was initialised. The number of ranks must be a multiple of tp_size * num_replicas."""
    assert dist.get_world_size() % (tp_size * num_replicas) == 0
    mesh = init_device_mesh(device_type, (dist.get_world_size() // tp_size, tp_size), mesh_dim_names=("dp", "tp"))
    return Parallel(
        tp_group=mesh["tp"].get_group(),
        dp_group=mesh["dp"].get_group(),
        tp_size=mesh["tp"].size(),
        tp_rank=mesh["tp"].get_local_rank(),
        dp_size=mesh["dp"].size(),
        dp_rank=mesh["dp"].get_local_rank(),
        replicas=_init_replicas(mesh.mesh, num_replicas) if num_replicas > 1 else None,
    )


def _init_replicas(ranks: Tensor, num_replicas: int) -> Replicas:
    """`ranks`: the global ranks, by data-parallel and tensor-parallel rank."""
    by_replica = ranks.view(num_replicas, -1, ranks.shape[1])  # replica, rank in the shard group, tensor-parallel rank
    return Replicas(_group_along(by_replica.transpose(1, 2)), _group_along(by_replica.permute(1, 2, 0)))


def _group_along(ranks: Tensor) -> ProcessGroup:
    """Make a group of each row of global ranks along the last dimension, and return this rank's. A collective of all ranks."""
    own, _ = dist.new_subgroups_by_enumeration(ranks.flatten(0, -2).tolist())
    assert own is not None
    return own


@contextmanager
def having_a_world() -> Iterator[None]:
    """In this block torch.distributed is initialised, which Megatron's layers require when they are built and when they are called.

    If it is initialised already, nothing changes. If not, this process alone is a world for the duration of the block, on gloo, with a
    store in its memory: no port, no network and no environment variables. Threads pass such blocks one after another.
    """
    with ALONE:
        if dist.is_initialized():
            yield
            return
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def parallel_alone() -> Parallel:
    """Return groups of this process alone, whatever other ranks there are. Not a collective: other ranks need not call it. Call it after
    torch.distributed was initialised. Layers that were built with these groups can be called in any later world."""
    if dist.get_world_size() == 1:
        group = dist.group.WORLD
    else:
        group = dist.new_group([dist.get_rank()], backend="gloo", use_local_synchronization=True)
    assert group is not None
    return Parallel(group, group, tp_size=1, tp_rank=0, dp_size=1, dp_rank=0)
