"""A teacher that is gathered once per update gives the bits of one that is gathered layer by layer, in one collective."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, BY_GATHERS, random_batch, resolved

ODD = ("model.hidden_size=33", "model.ffn_hidden_size=63", "model.num_attention_heads=1")


def updates_of(world_size: int, gather: str, other: dict[str, Any]) -> dict[str, Any]:
    """Take three updates of four micro-batches. Return each loss, with those of an evaluation after each update, and the number of the
    teacher's collectives in each update, after which the evaluation may have gathered it for the next one."""
    from fake_ranks import Counted
    from model.parallel import init_parallel
    from recipes.engine.update import add_up_replicas, backward
    from recipes.objectives.registry import build_objective

    megatron = {"megatron": {"teacher_gather": gather} | other.get("megatron", {})}
    micro = 8 // world_size
    recipe, config = resolved(
        world_size, 1, BY_GATHERS, other | megatron | {"train_micro_batch_size_per_gpu": micro}, "run.global_batch_size=32", *ODD
    )
    parallel = init_parallel(1, "cpu", config.batch.num_replicas)
    objective = build_objective(recipe, config, parallel)
    losses, gathers, counted = [], [], Counted()

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            with counted:
                return function(*args)

        return called

    objective.teacher, objective._gathering.start = counting(objective.teacher), counting(objective._gathering.start)
    for update in range(3):
        for number in range(4):
            objective.stream.update, objective.stream.micro_batch = update, number
            if number:
                objective.student.step()
            batch = random_batch(recipe, micro, 100 * update + 10 * number + parallel.dp_rank)
            outcome = objective.forward(batch, 64)
            losses.append(float(outcome.loss.detach()))
            backward(objective.student, outcome.loss, 64, parallel.shard_size)
        add_up_replicas(objective.student, parallel)
        objective.student.step()
        objective.after_step(update + 1)
        gathers.append({kind: number for (kind, _), number in counted.counts.items()})
        counted.counts.clear()
        losses += objective.evaluate([random_batch(recipe, micro, 7)]).values()
    return {"losses": losses, "gathers": gathers}


@pytest.mark.parametrize(
    ("world_size", "other"),
    [
        (2, {}),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(2, BF16, marks=pytest.mark.slow),
        pytest.param(4, BF16 | {"megatron": {"shard_size": 2}}, marks=pytest.mark.slow),
    ],
    ids=["dp2", "one_rank", "dp2_bf16", "two_copies_bf16"],
)
def test_a_teacher_gathered_once_gives_the_same_bits(world_size: int, other: dict[str, Any]) -> None:
    by_layer, once = (run_distributed(updates_of, world_size, world_size, gather, other, timeout=200) for gather in ("layer", "update"))
    for one, other_one in zip(by_layer, once, strict=True):
        assert one["losses"] == other_one["losses"] and len(set(one["losses"])) > 12
        assert other_one["gathers"] == [{"all_gather": 1} if world_size > 1 else {}] * 3


def order_of_streams() -> list[list[str]]:
    """Return what a gather does with streams, which are recorded ones: when it starts, and when the weights are used."""
    from model.parallel import init_parallel
    from recipes.engine import gathered
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(2, 1, BY_GATHERS, {"megatron": {"teacher_gather": "update"}})
    gathering = build_objective(recipe, config, init_parallel(1, "cpu"))._gathering
    events: list[str] = []

    @contextmanager
    def within(stream: Any) -> Iterator[None]:
        events.append(f"in {stream.name}")
        yield
        events.append("out")

    def stream(name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: events.append(f"{name} waits for {other.name}"))

    current, gathering._stream = stream("current"), stream("side")
    gathered.get_accelerator = lambda: SimpleNamespace(current_stream=lambda: current, stream=within)
    found = []
    for step in (gathering.start, gathering.start, gathering._finish, gathering._finish, gathering.outdate, gathering.start):
        events.clear()
        step()
        found.append(list(events))
    return found


def test_the_gather_waits_for_the_writes_and_the_forward_for_the_gather() -> None:
    begun, finished = ["side waits for current", "in side", "out"], ["in side", "out", "current waits for side"]
    assert run_distributed(order_of_streams, 2)[0] == [begun, [], finished, [], [], begun]
