"""The exchange for each update: it travels without waiting, in order, beside other collectives; and what training does with it."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recipes.train.agreement import Agreement
from tests.distributed import run_distributed
from tests.recipes.train.faulty import DP2, ONE, UNDISTURBED, prepare_pictures, run_rank

LATE_SECONDS = 0.3


def exchange_beside_others() -> list[Any]:
    """Exchange three times. Rank 0 begins the second exchange before another collective and the others after it; only rank 0 begins the
    last one."""
    agreement, rank = Agreement(), dist.get_rank()
    agreement.begin(0, [rank, 1])
    taken = [agreement.take()]
    start = time.monotonic()
    if rank == 0:
        agreement.begin(1, [10, 1])
    seconds = time.monotonic() - start
    assert agreement.is_begun(1) == (rank == 0) and not agreement.is_begun(0), "only the one that was begun"
    other = torch.tensor(rank)
    if rank:
        time.sleep(LATE_SECONDS)
    dist.all_reduce(other)
    if rank:
        agreement.begin(1, [20, 1])
    taken.append(agreement.take())
    if rank == 0:
        agreement.begin(2, [5, 5])
    agreement.close()
    return [*taken, int(other), agreement.num_taken, seconds < LATE_SECONDS]


def test_an_exchange_that_some_ranks_begin_earlier_waits_for_no_rank_and_mixes_with_nothing() -> None:
    assert run_distributed(exchange_beside_others, 3) == [[[3, 3], [50, 3], 3, 3, True]] * 3


CALLS = ("all_reduce", "all_gather", "all_gather_object", "broadcast", "broadcast_object_list", "gather_object", "reduce", "barrier")


def calls_of_each_update(run_dir: Path, prepared: Path) -> list[Counter[str]]:
    """Return for each update of a run the number of calls on the control group, of exchanges that do not wait ("early"), and of judge() on
    the group of all devices. The data of an update are ready while the update before runs."""
    from recipes.train import loop

    counts, updates, control, train_step = Counter[str](), list[Counter[str]](), list[Any](), loop.train_step

    def counting(name: str, send: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            group, tensor = options.get("group"), options["tensor"] if "tensor" in options else next(iter(args), None)
            if group in control:
                counts[f"control {name}"] += 1
            elif name == "all_reduce" and options.get("async_op") and tensor.dtype == torch.int64:
                counts["early"] += 1
            elif name == "all_reduce" and group in (None, dist.group.WORLD) and tensor.dtype == torch.float64 and tensor.dim():
                counts["judge"] += 1
            return send(*args, **options)

        return call

    def counted_step(state: Any, logs: bool) -> Any:
        loader, control[:] = state.data.loader, [state.world.control]
        loader.peek = lambda update: loader._prefetched[1].result()
        counts.clear()
        metrics = train_step(state, logs)
        updates.append(Counter(counts))
        return metrics

    for name in CALLS:
        setattr(dist, name, counting(name, getattr(dist, name)))
    loop.train_step = counted_step
    run_rank(run_dir, prepared, DP2, UNDISTURBED, {}, {"run__log_steps": 100, "run__save_steps": 100, "run__eval_steps": 100})
    return updates


def test_after_the_first_update_no_rank_waits_for_the_control_group_and_the_guard_is_one_collective_of_the_devices(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    for updates in run_distributed(calls_of_each_update, 2, tmp_path / "run", prepared):
        assert updates[1:3] == [{"early": 1, "judge": 1}] * 2, updates
        assert updates[0]["early"] == 2, "the first exchange begins when its update begins"


def step_of_stop(run_dir: Path, prepared: Path, is_early: bool) -> tuple[int, int]:
    """Ask a run to stop when two updates are applied. Return its last step and its exit code. The data of an update are ready while the
    update before runs if `is_early`, else only when it begins."""
    from recipes.train import loop

    train_step, steps = loop.train_step, list[int]()

    def asked_step(state: Any, logs: bool) -> Any:
        loader = state.data.loader
        loader.peek = lambda update: loader._prefetched[1].result() if is_early else None
        state.stop.reason = "a test" if state.step == 2 else state.stop.reason
        metrics = train_step(state, logs)
        steps.append(state.step)
        return metrics

    loop.train_step = asked_step
    return run_rank(run_dir, prepared, ONE, UNDISTURBED)["code"], steps[-1]


@pytest.mark.parametrize(("is_early", "last"), [(False, 2), (True, 3)], ids=["late_data", "early_data"])
def test_after_a_request_to_stop_at_most_one_more_update_is_begun(tmp_path: Path, is_early: bool, last: int) -> None:
    """None, unless the exchange for the next update had begun."""
    prepared = prepare_pictures(tmp_path)
    assert run_distributed(step_of_stop, 1, tmp_path / "run", prepared, is_early) == [(75, last)]
