"""Parameters that every tensor-parallel rank holds whole: they stay equal whatever gradients the ranks compute, and a drift is named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, random_batch, resolved
from tests.recipes.train.faulty import PARAMETERS, TP2, UNDISTURBED, Fault, prepare_pictures, run_rank
from tests.recipes.train.test_guard import OFFLOAD

NAME = "trunk.encoder.layers.0.ffn_norm.weight"


def drifts(world_size: int, other: dict[str, Any]) -> dict[str, Any]:
    """Update twice with gradients of a replicated parameter that differ between the ranks, first shared, then not. Then change one bit of
    another parameter. Return the names that are found after each, and whether shared gradients of rank 0 stay as they are."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.replicated import DriftCheck, share_gradients
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    micro = 16 // world_size
    recipe, config = resolved(
        world_size, 2, {}, {"train_micro_batch_size_per_gpu": micro, **other}, "optim.lr=0.01", "optim.warmup_steps=0"
    )
    parallel = init_parallel(2, "cpu")
    objective = build_objective(recipe, config, parallel)
    student, check, found = objective.student, DriftCheck(objective.student, parallel), dict[str, Any]()
    parameters = dict(shards.named_parameters(student))
    parameters[NAME].register_hook(lambda gradient: gradient * (1 + parallel.tp_rank))
    for kind in ("shared", "not shared"):
        outcome = objective.forward(random_batch(recipe, micro, parallel.dp_rank), 1)
        backward(student, outcome.loss, 64, parallel.dp_size)
        before = {name: shards.gradient_shard(parameter).clone() for name, parameter in parameters.items()}
        if kind == "shared":
            share_gradients(student, parallel)
            after = {name: shards.gradient_shard(parameter) for name, parameter in parameters.items()}
            changed = {name for name, gradient in before.items() if not gradient.equal(after[name])}
            assert changed == ({NAME} if parallel.tp_rank else set()), changed
            assert not parallel.tp_rank or torch.allclose(2 * after[NAME], before[NAME]), "the gradient of rank 0"
        student.step()
        found[kind] = check.new_drifts()
    other_name = next(name for name, parameter in parameters.items() if not shards.is_split(parameter) and name != NAME)
    if torch.distributed.get_rank() == world_size - 1:
        weights = shards.master_shard(parameters[other_name])
        weights.view(torch.int32)[0] += 1
    found["one bit"], found["again"] = check.new_drifts() == [other_name], check.new_drifts()
    return found


@pytest.mark.parametrize(("world_size", "other"), [(2, {}), (2, BF16), (2, BF16 | OFFLOAD), (4, {})], ids=["tp2", "bf16", "offload", "dp2"])
def test_shared_gradients_keep_copies_equal_and_one_bit_is_a_drift(world_size: int, other: dict[str, Any]) -> None:
    expected = {"shared": [], "not shared": [NAME], "one bit": True, "again": []}
    assert run_distributed(drifts, world_size, world_size, other, timeout=280) == [expected] * world_size


def run_with_drift(run_dir: Path, prepared: Path, fault: Fault, is_moved: bool) -> dict[str, Any]:
    """Train with `fault`. If `is_moved`, change a replicated parameter on rank 1 after two updates."""
    from recipes.engine import shards
    from recipes.train import loop

    train_step = loop.train_step

    def moved_step(state: Any, logs: bool) -> Any:
        if is_moved and state.step == 2 and state.world.rank == 1:
            shards.master_shard(dict(shards.named_parameters(state.objective.student))[PARAMETERS["replicated"]]).mul_(1.5)
        return train_step(state, logs)

    loop.train_step = moved_step
    return run_rank(run_dir, prepared, TP2, fault)


def test_a_run_reports_a_drift_once_and_other_gradients_of_one_rank_make_none(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    doubled = Fault("replicated", rank=1, factor=2.0, updates=range(4))
    plain, other = (
        run_distributed(run_with_drift, 2, tmp_path / str(n), prepared, fault, False) for n, fault in enumerate((UNDISTURBED, doubled))
    )
    for one, two in zip(plain, other, strict=True):
        assert all(shard.equal(two["shards"][name]) for name, shard in one["shards"].items()), "the gradients of rank 0 are applied"
        assert not [event for event in two["events"] if event["event"] == "drift"]
    first, _ = run_distributed(run_with_drift, 2, tmp_path / "moved", prepared, UNDISTURBED, True)
    (drift,) = [event for event in first["events"] if event["event"] == "drift"]
    assert (drift["step"], drift["parameters"]) == (3, [PARAMETERS["replicated"]])
