"""The ranks of one run as tensor-parallel and data-parallel groups, and the `mpu` that DeepSpeed asks for.

The only file that makes process groups for the model; layers get theirs explicitly and know nothing of ranks.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh


@dataclass(frozen=True)
class Parallel:
    """Where this rank stands: global rank = dp_rank * tp_size + tp_rank, so that a TP group lies within a node."""

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
        """This rank's place in the TP group."""
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
        """This rank's place in the DP group."""
        return self.dp_rank

    def get_data_parallel_world_size(self) -> int:
        """Ranks in the DP group."""
        return self.dp_size


def init_parallel(tp_size: int, device_type: str) -> Parallel:
    """TP and DP groups over the initialised default process group, whose size must be a multiple of tp_size."""
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
