"""Measurements in which several nodes take part, on gloo processes of this machine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recipes.cluster.preflight import bandwidth
from recipes.cluster.preflight.node_report import ALL_REDUCE, EXCHANGE
from tests.clock import Clock
from tests.distributed import run_distributed

ALL_REDUCE_SECONDS = [9.0, 4.0, 2.0, 3.0]
"""Seconds of the all-reduce that opens the connections, and of three rounds."""
EXCHANGE_SECONDS = [8.0, 4.0, 6.0, 1.0, 0.5, 2.0]
"""Seconds of three rounds at distance 1, and of three at distance 2."""
NUM_BYTES = 2**16


def measured() -> tuple[dict[str, float], bool, list[str]]:
    """Return the rates on a clock that gives each round the seconds above, whether a process group is left, and which waits happened."""
    rank, size, store = leave_group()
    bandwidth.CPU_BYTES, clock = NUM_BYTES, Clock()
    bandwidth.time = clock  # type: ignore[assignment]
    for name, rounds in (("all_reduce", ALL_REDUCE_SECONDS), ("batch_isend_irecv", EXCHANGE_SECONDS)):
        setattr(bandwidth.dist, name, Timed(getattr(dist, name), clock, rounds))
    waits, barrier, exchange = list[str](), dist.barrier, dist.batch_isend_irecv
    bandwidth.dist.barrier = lambda: waits.append("barrier") or barrier()  # type: ignore[assignment,func-returns-value]
    bandwidth.dist.batch_isend_irecv = lambda sent: [RecordedWork(work, waits) for work in exchange(sent)]  # type: ignore[assignment]
    return bandwidth.bandwidth(store, rank, size, None, 60), dist.is_initialized(), waits


class RecordedWork:
    """A send or receive that records when it is waited for."""

    def __init__(self, work: dist.Work, waits: list[str]) -> None:
        self._work, self._waits = work, waits

    def wait(self) -> None:
        """Wait until it is done."""
        self._work.wait()
        self._waits.append("work")


class Timed:
    """Calls a function; on the clock, each call takes the next of `seconds`."""

    def __init__(self, function: Callable[..., Any], clock: Clock, seconds: list[float]) -> None:
        self._function, self._clock, self._seconds = function, clock, iter(seconds)

    def __call__(self, *args: Any) -> Any:
        self._clock.sleep(next(self._seconds))
        return self._function(*args)


def leave_group() -> tuple[int, int, dist.Store]:
    """Destroy the process group of run_distributed, since the code under test opens its own. Return rank, size and store."""
    rank, size, store = dist.get_rank(), dist.get_world_size(), dist.distributed_c10d._get_default_store()
    dist.barrier()  # a rank that leaves while another one still connects would break that connection
    dist.destroy_process_group()
    return rank, size, dist.PrefixStore("test", store)


@pytest.mark.parametrize("size", [2, 3])
def test_two_and_three_nodes_report_the_all_reduce_rate_of_the_best_round(size: int) -> None:
    rate = pytest.approx(2 * (size - 1) / size * NUM_BYTES / min(ALL_REDUCE_SECONDS) / 1e9)
    assert run_distributed(measured, size) == [({ALL_REDUCE: rate}, False, [])] * size


def test_from_four_nodes_on_each_node_also_reports_its_exchange_rate_with_the_better_partners() -> None:
    rates = {ALL_REDUCE: 1.5 * NUM_BYTES / min(ALL_REDUCE_SECONDS) / 1e9, EXCHANGE: NUM_BYTES / min(EXCHANGE_SECONDS) / 1e9}
    waits = ["barrier", *["work"] * 6] * 2  # a send and a receive in each of three rounds, after a barrier
    assert run_distributed(measured, 4) == [(pytest.approx(rates), False, waits)] * 4


def partners(size: int) -> list[list[set[int]]]:
    return [[{(rank + shift) % size, (rank - shift) % size} for shift in bandwidth.SHIFTS] for rank in range(size)]


@pytest.mark.parametrize("size", range(4, 12))
def test_a_partner_of_a_slow_node_has_other_partners_at_one_distance(size: int) -> None:
    for rank, both in enumerate(partners(size)):
        for slow in set(range(size)) - {rank}:
            assert any(slow not in those for those in both), f"{slow} is a partner of {rank} at every distance"


def without_rank_1() -> str:
    rank, size, store = leave_group()
    if rank == 1:
        return "gone"
    with pytest.raises(RuntimeError) as error:
        bandwidth.bandwidth(store, rank, size, None, 0.3)
    return str(error.value)


def test_a_missing_node_is_an_error_after_the_timeout() -> None:
    error, _ = run_distributed(without_rank_1, 2, timeout=20)
    assert error


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
