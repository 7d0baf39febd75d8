"""Contract with the pinned DeepSpeed: every private attribute that shards.py uses, and that the forward computes with what was written."""

import gc
import math
import weakref
from importlib import metadata
from typing import Any

import pytest
import torch

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import LARGE_THRESHOLD, NO_THRESHOLD, random_batch, resolved


def test_deepspeed_is_the_version_whose_private_state_was_read() -> None:
    assert metadata.version("deepspeed") == "0.19.8"


def inspect_private_state(world_size: int, tp_size: int, zero: dict[str, Any]) -> None:
    """Check views, ranges and round trips on real engines."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, zero, {})
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    parameters = dict(shards.named_parameters(objective.student))
    covered = {}
    for name, parameter in parameters.items():
        master, computed = shards.master_shard(parameter), shards.compute_shard(parameter)
        assert master.shape == computed.shape and torch.equal(master, computed), name
        first, count = shards.shard_range(parameter)
        assert first + count <= parameter.ds_numel and count <= len(master), name
        covered[name] = count
        for moment in shards.MOMENTS:
            assert not shards.moment_shard(parameter, moment).any(), name
    full = {n: torch.randn_like(shards.gather_full(p, shards.master_shard(p), parallel)) for n, p in parameters.items()}
    for name, parameter in parameters.items():
        torch.distributed.broadcast(full[name], 0)
        full[name] *= 0.02
        shards.scatter_full(parameter, full[name], parallel, shards.master_shard(parameter))
    shards.refresh_compute_weights(objective.student)
    for name, parameter in parameters.items():
        assert torch.equal(shards.gather_full(parameter, shards.master_shard(parameter), parallel), full[name]), name
    batch = random_batch(recipe, 8 // parallel.dp_size, 3)
    before = objective.forward(batch, 1)
    shards.set_optimizer_step(objective.student, 5)
    backward(objective.student, before.loss, 64, objective.parallel.dp_size)
    gradients = {n: shards.gradient_shard(p) for n, p in parameters.items()}
    assert all(g.dtype == torch.float32 and g.shape == shards.master_shard(parameters[n]).shape for n, g in gradients.items())
    objective.student.step()
    assert objective.student.was_step_applied()
    steps = {float(s["step"]) for s in objective.student.optimizer.optimizer.state.values()}
    assert steps == {6.0}, steps
    written = shards.master_shard(parameters["head.layers.0.weight"]).clone()
    assert not torch.equal(written, full["head.layers.0.weight"].reshape(-1)[: len(written)])


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero"), [(1, 1, {}), (2, 1, LARGE_THRESHOLD), (2, 2, NO_THRESHOLD)], ids=["one_rank", "dp2", "tp2"]
)
def test_shards_are_views_that_training_reads_and_writes(world_size: int, tp_size: int, zero: dict[str, Any]) -> None:
    run_distributed(inspect_private_state, world_size, world_size, tp_size, zero, timeout=120)


def forward_after_write(zero: dict[str, Any]) -> float:
    """Change one master weight through shards. Return how far the change of the student's forward is from the expected one."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, zero, {})
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    batch = random_batch(recipe, 8, 3)
    before = objective.forward(batch, 1).prediction_MD.detach().clone()
    with torch.no_grad():
        shards.master_shard(dict(shards.named_parameters(objective.student))["head.layers.1.bias"]).add_(1.0)
    shards.refresh_compute_weights(objective.student)
    return float((objective.forward(batch, 1).prediction_MD - before - 1).abs().max())


@pytest.mark.parametrize("zero", [NO_THRESHOLD, LARGE_THRESHOLD], ids=["partitioned", "persistent"])
def test_a_write_reaches_the_forward_after_a_refresh_even_in_persistent_parameters(zero: dict[str, Any]) -> None:
    assert run_distributed(forward_after_write, 1, zero)[0] < 1e-5


OFFLOAD = {"offload_optimizer": {"device": "cpu"}}


def discard_and_go_on(world_size: int, tp_size: int, zero: dict[str, Any], poisons: tuple[float, ...]) -> dict[str, Any]:
    """Take three updates of two micro-batches. Before the last, for each of `poisons`, accumulate one more whose loss is multiplied by it,
    and discard it."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, zero, {"train_micro_batch_size_per_gpu": 4 // (world_size // tp_size)}, "optim.lr=0.01")
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    student, parameters = objective.student, dict(shards.named_parameters(objective.student))

    def accumulate(seed: int, factor: float = 1.0) -> None:
        objective.stream.update = seed
        for number in range(2):
            if number:
                student.step()
            batch = random_batch(recipe, config.batch.micro_batch_size, 10 * seed + 2 * parallel.dp_rank + number)
            backward(student, objective.forward(batch, 64).loss * factor, 64, parallel.dp_size)

    for seed in (0, 1, 2):
        for poison in poisons if seed == 2 else ():
            accumulate(7, poison)
            assert bool(torch.isfinite(shards.gradient_square(student, parameters.values()))) is math.isfinite(poison)
            shards.discard_update(student)
            assert not student.was_step_applied()
        accumulate(seed)
        own = {n: shards.gradient_square(student, [p]) for n, p in parameters.items()}
        expected = {n: shards.gradient_shard(p).double().square().sum() for n, p in parameters.items()}
        together = float(shards.gradient_square(student, parameters.values()))
        assert all(float(own[n]) == pytest.approx(float(expected[n]), rel=1e-6) for n in parameters), (own, expected)
        assert together == pytest.approx(sum(float(square) for square in expected.values()), rel=1e-6), together
        student.step()
        assert student.was_step_applied()
    return {n: shards.master_shard(p).clone() for n, p in parameters.items()}


RUNS: dict[str, tuple[int, int, dict[str, Any]]] = {
    **{"one": (1, 1, {}), "dp2": (2, 1, LARGE_THRESHOLD), "tp2": (2, 2, {}), "offload": (1, 1, OFFLOAD)},
}
"""World size, tensor-parallel size, ZeRO settings."""


@pytest.fixture(scope="module", params=RUNS)
def undisturbed(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    """The key of a run, and the weights at its end on each rank if nothing is discarded."""
    return request.param, discarding(request.param, ())


def discarding(run: str, poisons: tuple[float, ...]) -> list[dict[str, Any]]:
    """Run discard_and_go_on on every rank. The first run with offload on a machine compiles DeepSpeed's optimizer, which takes a minute."""
    world_size, tp_size, zero = RUNS[run]
    return run_distributed(discard_and_go_on, world_size, world_size, tp_size, zero, poisons, timeout=280)


def test_gradient_squares_equal_those_of_the_shards_to_1e_6_and_discarded_updates_change_nothing(
    undisturbed: tuple[str, list[dict[str, Any]]],
) -> None:
    run, theirs = undisturbed
    for mine, other in zip(discarding(run, (float("nan"), float("inf"), 1e3)), theirs, strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in other)


def squares_under(scale: float) -> tuple[float, float]:
    """Return the squared gradient norm, and the plain sum of the gradients' squares, with fp16's loss scale on an fp32 engine."""
    from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler

    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, {}, {})
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    student = objective.student
    student.optimizer.loss_scaler = CreateLossScaler(torch.half, static_loss_scale=scale, dynamic_scaling=False, dynamic_loss_args=None)
    backward(objective.student, objective.forward(random_batch(recipe, 8, 3), 64).loss, 64, objective.parallel.dp_size)
    gradients = [shards.gradient_shard(p) for _, p in shards.named_parameters(student)]
    own = float(shards.gradient_square(student, [p for _, p in shards.named_parameters(student)]))
    return own, float(sum(gradient.double().square().sum() for gradient in gradients))


def test_the_squared_gradient_norm_does_not_contain_the_loss_scale() -> None:
    plain, scaled = (run_distributed(squares_under, 1, scale)[0] for scale in (1.0, 1024.0))
    assert plain[0] == pytest.approx(plain[1], rel=1e-6)
    assert scaled[0] == pytest.approx(plain[0], rel=1e-6)
    assert scaled[1] == pytest.approx(1024.0**2 * plain[1], rel=1e-6), "the gradients themselves contain it"


def test_the_squared_norm_of_no_parameters_is_zero() -> None:
    assert run_distributed(square_of_no_parameters, 1) == [0.0]


def square_of_no_parameters() -> float:
    """Return gradient_square of an empty list."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, {}, {})
    return float(shards.gradient_square(build_objective(recipe, config, init_parallel(1, "cpu")).student, []))


def release_after_an_update() -> list[bool]:
    """Build engines, do an update, and release them. Return for student and teacher whether they are still in memory."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, {}, {})
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    backward(objective.student, objective.forward(random_batch(recipe, 8, 3), 1).loss, 64, 1)
    objective.student.step()
    engines = [weakref.ref(objective.student), weakref.ref(objective.teacher)]
    shards.release(objective.student)
    del objective
    gc.collect()
    return [engine() is not None for engine in engines]


def test_released_engines_leave_the_memory() -> None:
    assert run_distributed(release_after_an_update, 1)[0] == [False, False]
