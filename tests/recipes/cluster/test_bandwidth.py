"""What nodes measure together, on gloo processes of this machine."""

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import bandwidth
from recipes.cluster.facts import ALL_REDUCE, EXCHANGE
from tests.distributed import run_distributed


def measured(timeout: float = 60) -> dict[str, float]:
    rank, size, store = leave_group()
    bandwidth.CPU_BYTES = 2**16
    return bandwidth.bandwidth(store, rank, size, None, timeout)


def leave_group() -> tuple[int, int, dist.Store]:
    """Out of the group that run_distributed made: the code under test opens its own."""
    rank, size, store = dist.get_rank(), dist.get_world_size(), dist.distributed_c10d._get_default_store()
    dist.barrier()  # who leaves while another one still connects breaks it there
    dist.destroy_process_group()
    return rank, size, dist.PrefixStore("test", store)


@pytest.mark.parametrize("size", [2, 3])
def test_two_and_three_nodes_have_a_rate_together(size: int) -> None:
    for rates in run_distributed(measured, size):
        assert rates.keys() == {ALL_REDUCE} and rates[ALL_REDUCE] > 0


def test_from_four_nodes_on_each_has_its_own_rate_too() -> None:
    for rates in run_distributed(measured, 4):
        assert rates.keys() == {ALL_REDUCE, EXCHANGE} and min(rates.values()) > 0


def partners(size: int) -> list[list[set[int]]]:
    return [[{(rank + shift) % size, (rank - shift) % size} for shift in bandwidth.SHIFTS] for rank in range(size)]


@pytest.mark.parametrize("size", range(4, 12))
def test_who_talks_to_a_slow_node_also_talks_to_others_alone(size: int) -> None:
    for rank, both in enumerate(partners(size)):
        for slow in set(range(size)) - {rank}:
            assert any(slow not in those for those in both), f"{rank} meets {slow} at every distance"


def one_is_gone() -> str:
    rank, size, store = leave_group()
    if rank == 1:
        return "gone"
    with pytest.raises(RuntimeError) as error:
        bandwidth.bandwidth(store, rank, size, None, 2)
    return str(error.value)


def test_a_node_that_is_not_there_ends_the_wait() -> None:
    here, _ = run_distributed(one_is_gone, 2, timeout=60)
    assert here


def sums_wrongly() -> str:
    rank, size, store = leave_group()
    right = dist.all_reduce

    def wrong(values: torch.Tensor) -> None:
        right(values)
        values[:2] = 3.0

    bandwidth.dist.all_reduce = wrong  # type: ignore[assignment]
    bandwidth.CPU_BYTES = 2**16
    with pytest.raises(RuntimeError) as error:
        bandwidth.bandwidth(store, rank, size, None, 10)
    return str(error.value)


def test_a_wrong_sum_is_an_error() -> None:
    assert run_distributed(sums_wrongly, 2) == ["a sum of 2 ones is 2 to 3"] * 2
