"""Parameters that every rank of a tensor-parallel group holds whole: they get one gradient, and differences between their weights are
found.

Each rank computes their gradients itself. Kernels that add in another order each time would let the copies drift apart. Like shards.py,
this file uses DeepSpeed's private state, which its test pins to the tested version.
"""

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from model.parallel import Parallel
from recipes.engine.shards import gradient_views, is_split, master_shard, named_parameters, trained_parameters


def share_gradients(engine: DeepSpeedEngine, parallel: Parallel) -> None:
    """Replace the gradients of replicated parameters by those of tensor-parallel rank 0, in one broadcast. Call it on every rank after the
    last backward of an update, just before its step().

    A copy keeps equal gradients as they are for any number of ranks, which a mean does not. It also applies the gradients that the norm
    counts.
    """
    if parallel.tp_size == 1:
        return
    views = _replicated_gradients(engine)
    whole = torch.cat([view.to(engine.device, torch.float32) for view in views])
    dist.broadcast(whole, group=parallel.tp_group, group_src=0)
    if parallel.tp_rank:
        torch._foreach_copy_(views, list(whole.split([view.numel() for view in views])))


def _replicated_gradients(engine: DeepSpeedEngine) -> list[Tensor]:
    """Return this rank's gradient shards of replicated parameters, in the memory that the optimizer's step reads."""
    optimizer = engine.optimizer
    replicated = [parameter for _, parameter in trained_parameters(engine) if not is_split(parameter)]
    if not optimizer.offload_optimizer:
        return gradient_views(engine, replicated)
    places = [optimizer.grad_position[optimizer.get_param_id(parameter)] for parameter in replicated]
    return [optimizer.fp32_partitioned_groups_flat[group].grad.narrow(0, offset, count) for group, offset, count in places]


class DriftCheck:
    """Compares the weights of replicated parameters over the tensor-parallel ranks."""

    def __init__(self, engine: DeepSpeedEngine, parallel: Parallel) -> None:
        self._parallel, self._device = parallel, engine.device
        self._replicated: list[tuple[str, nn.Parameter]] = [(n, p) for n, p in named_parameters(engine) if not is_split(p)]
        self._reported: set[str] = set()

    def new_drifts(self) -> list[str]:
        """Return the names of the parameters whose copies differ in any bit on any rank and were not returned before. A collective: two
        small ones, of a checksum for each parameter."""
        if self._parallel.tp_size == 1:
            return []
        sums = torch.stack([_checksum(master_shard(parameter)) for _, parameter in self._replicated]).to(self._device)
        extremes = torch.cat([sums, -sums])
        dist.all_reduce(extremes, dist.ReduceOp.MAX, group=self._parallel.tp_group)
        largest, negative_smallest = extremes.chunk(2)
        differs = (largest + negative_smallest).ne(0).int()
        dist.all_reduce(differs, dist.ReduceOp.MAX, group=self._parallel.dp_group)  # each data-parallel rank has another shard
        names = [name for (name, _), is_other in zip(self._replicated, differs.tolist(), strict=True) if is_other]
        new = [name for name in names if name not in self._reported]
        self._reported.update(new)
        return new


def _checksum(shard: Tensor) -> Tensor:
    """Return the sum of the bit patterns of a shard, as int64. One changed bit changes it."""
    return shard.view(torch.int16).sum(dtype=torch.int64)
