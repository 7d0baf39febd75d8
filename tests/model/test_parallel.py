"""TP and DP groups of a run, and DeepSpeed's interface for them."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from model.parallel import Parallel, having_a_world, init_parallel, parallel_alone
from tests.distributed import run_distributed

MPU = {
    "get_model_parallel": "tp",
    "get_tensor_model_parallel": "tp",
    "get_data_parallel": "dp",
}
"""Names of DeepSpeed's `mpu` without their endings, and which groups they mean."""


def groups_of(tp_size: int) -> dict[str, Any]:
    parallel = init_parallel(tp_size, "cpu")
    for stem, kind in MPU.items():
        group = getattr(parallel, f"{kind}_group")
        assert getattr(parallel, f"{stem}_group")() is group, stem
        assert getattr(parallel, f"{stem}_rank")() == dist.get_rank(group) == getattr(parallel, f"{kind}_rank"), stem
        assert getattr(parallel, f"{stem}_world_size")() == dist.get_world_size(group) == getattr(parallel, f"{kind}_size"), stem
    total = torch.tensor(10.0 ** dist.get_rank())
    dist.all_reduce(total, group=parallel.tp_group)
    return {
        "tp": dist.get_process_group_ranks(parallel.tp_group),
        "dp": dist.get_process_group_ranks(parallel.dp_group),
        "ranks": (parallel.dp_rank, parallel.tp_rank),
        "sizes": (parallel.dp_size, parallel.tp_size),
        "sum_over_tp": int(total),
    }


@pytest.mark.parametrize(
    ("tp_size", "tp_groups", "dp_groups"),
    [
        (1, [[0], [1], [2], [3]], [[0, 1, 2, 3]]),
        (2, [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
        (4, [[0, 1, 2, 3]], [[0], [1], [2], [3]]),
    ],
)
def test_ranks_of_a_tp_group_are_neighbours(tp_size: int, tp_groups: list[list[int]], dp_groups: list[list[int]]) -> None:
    for rank, found in enumerate(run_distributed(groups_of, 4, tp_size)):
        assert found["tp"] == next(group for group in tp_groups if rank in group)
        assert found["dp"] == next(group for group in dp_groups if rank in group)
        assert found["ranks"] == divmod(rank, tp_size)
        assert found["sizes"] == (4 // tp_size, tp_size)
        assert found["sum_over_tp"] == sum(10**r for r in found["tp"])


def test_a_number_of_ranks_that_tp_does_not_divide_is_refused(parallel: Parallel) -> None:
    with pytest.raises(AssertionError):
        init_parallel(2, "cpu")


def test_one_process_has_groups_of_size_1(parallel: Parallel) -> None:
    assert (parallel.tp_size, parallel.tp_rank, parallel.dp_size, parallel.dp_rank) == (1, 0, 1, 0)


def alone_in_turn() -> tuple[list[bool], int, list[int]]:
    """Return whether torch.distributed was initialised inside and after blocks, the size of the group of a block that has ended, and the
    sizes of a world of two ranks that the caller makes later, of which only one rank makes a group of its own."""
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    dist.destroy_process_group()
    states = []
    with having_a_world():
        states.append(dist.is_initialized())
        first = parallel_alone()
        with having_a_world():
            states.append(dist.get_world_size() == 1)
        states.append(dist.is_initialized())
    states.append(dist.is_initialized())
    dist.init_process_group("gloo", store=dist.PrefixStore("own", store), rank=rank, world_size=2)
    with having_a_world():
        sizes = [dist.get_world_size(), parallel_alone().tp_group.size() if rank == 1 else 1]
    states.append(dist.is_initialized())
    return states, first.tp_group.size(), sizes


def test_a_process_has_a_world_of_its_own_for_a_block_and_uses_the_callers_one_if_there_is_one() -> None:
    for states, size, sizes in run_distributed(alone_in_turn, 2):
        assert states == [True, True, True, False, True] and size == 1 and sizes == [2, 1]
