"""The tensor-parallel and data-parallel groups of a run's ranks, and the `mpu` object that DeepSpeed takes.

Only this file makes process groups for the model. Layers get their groups as arguments.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh


@dataclass(frozen=True)
class Parallel:
    """Groups of this rank and its index in them. Global rank = dp_rank * tp_size + tp_rank, so that a TP group lies within a node."""

    tp_group: ProcessGroup
    dp_group: ProcessGroup
    tp_size: int
    tp_rank: int
    dp_size: int
    dp_rank: int

    # DeepSpeed's `mpu` interface, under the names it looks for.
    def get_model_parallel_group(self) -> ProcessGroup:
        """The TP group, which DeepSpeed calls model parallel."""
        return self.tp_group

    def get_model_parallel_rank(self) -> int:
        """This rank's index in the TP group."""
        return self.tp_rank

    def get_model_parallel_world_size(self) -> int:
        """Ranks in the TP group."""
        return self.tp_size

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> ProcessGroup:
        """The DP group: the ranks that ZeRO shards over."""
        return self.dp_group

    def get_data_parallel_rank(self) -> int:
        """This rank's index in the DP group."""
        return self.dp_rank

    def get_data_parallel_world_size(self) -> int:
        """Ranks in the DP group."""
        return self.dp_size


def init_parallel(tp_size: int, device_type: str) -> Parallel:
    """Split the default process group, which must be initialised, into TP and DP groups. Its size must be a multiple of tp_size."""
    assert dist.get_world_size() % tp_size == 0
    mesh = init_device_mesh(device_type, (dist.get_world_size() // tp_size, tp_size), mesh_dim_names=("dp", "tp"))
    return Parallel(
        tp_group=mesh["tp"].get_group(),
        dp_group=mesh["dp"].get_group(),
        tp_size=mesh["tp"].size(),
        tp_rank=mesh["tp"].get_local_rank(),
        dp_size=mesh["dp"].size(),
        dp_rank=mesh["dp"].get_local_rank(),
    )
