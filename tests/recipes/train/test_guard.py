"""Skipped updates and their reported reasons, on real ranks; and runs that end with a one-line error that says where to look."""

from pathlib import Path
from typing import Any

import pytest

from recipes.config import GuardConfig
from recipes.data.order import Position
from recipes.ds_config import BatchPlan, load_ds_config
from recipes.errors import TrainingBroken
from recipes.text import text_base
from recipes.train.guard import Skip, UpdateHealth, blamed_samples, check_finite, check_skips, reason_to_skip
from recipes.train.spikes import Spike
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, random_batch, resolved

ROOT = Path(__file__).parents[3]
RECIPE = text_base()
HEALTHY = {"step": 200, "loss": 1.0}
SPIKE = Spike("grad_norm", 30.0, 1.0, 20.0)
OFFLOADED = load_ds_config(ROOT / "ds_configs" / "zero3_offload_cpu.json")["zero_optimization"]
OFFLOAD = {"zero_optimization": OFFLOADED | {"overlap_comm": False}}


def test_a_healthy_run_goes_on() -> None:
    check_finite(HEALTHY)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"loss": float("nan")}, r"loss is nan at step 200; look at grad_norm and lr"),
        ({"loss": float("inf")}, r"loss is inf at step 200"),
        ({"loss": float("nan"), "step": 1}, r"loss is nan at step 1"),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(change: dict, complaint: str) -> None:
    with pytest.raises(TrainingBroken, match=complaint) as caught:
        check_finite(HEALTHY | change)
    assert "\n" not in str(caught.value)


def test_a_run_that_skips_every_update_ends_with_the_last_reason_and_one_that_skips_a_few_goes_on() -> None:
    recipe = RECIPE
    check_skips(recipe, 7, recipe.guard.max_skipped_in_a_row - 1, "non-finite loss")
    with pytest.raises(TrainingBroken, match="50 updates in a row were skipped at step 7, the last for a non-finite loss; look at"):
        check_skips(recipe, 7, recipe.guard.max_skipped_in_a_row, "non-finite loss")


@pytest.mark.parametrize(
    ("health", "spike", "is_scaled", "reason"),
    [
        (UpdateHealth(1.0, 1.0, 0, 0), "skip", False, None),
        (UpdateHealth(1.0, 1.0, 1, 0), "off", False, "non-finite loss"),
        (UpdateHealth(1.0, 1.0, 1, 2), "off", True, "non-finite loss"),
        (UpdateHealth(1.0, 1.0, 0, 1), "off", False, "non-finite gradient"),
        (UpdateHealth(1.0, 1.0, 0, 1), "off", True, None),  # fp16: the loss scaler must see it
        (UpdateHealth(1.0, 1.0, 0, 0, (SPIKE,)), "report", False, None),
        (UpdateHealth(1.0, 1.0, 0, 0, (SPIKE,)), "skip", False, "spike of grad_norm"),
        (UpdateHealth(1.0, 1.0, 0, 0, (SPIKE,)), "skip", True, "spike of grad_norm"),
    ],
)
def test_what_is_skipped_and_why(health: UpdateHealth, spike: Any, is_scaled: bool, reason: str | None) -> None:
    assert reason_to_skip(health, GuardConfig(spike=spike), is_scaled=is_scaled) == reason


def test_samples_are_those_of_the_bad_micro_batches_or_all_if_no_loss_was_bad() -> None:
    positions = [Position(3, index, (index,)) for index in range(100, 116)]
    batch = BatchPlan(micro_batch_size=2, accumulation_steps=4, world_size=4, tp_size=2, dp_size=2)
    bad = [{"rank": rank, "micro_batches": [1], "parameters": []} for rank in (2, 3)]  # the TP ranks of DP rank 1
    assert blamed_samples(Skip("non-finite loss", tuple(bad)), positions, batch) == [(3, 110), (3, 111)]
    other = {"rank": 0, "micro_batches": [0, 3], "parameters": []}
    assert blamed_samples(Skip("non-finite loss", (other,)), positions, batch) == [(3, i) for i in (100, 101, 106, 107)]
    everything = [(3, index) for index in range(100, 116)]
    assert blamed_samples(Skip("spike of loss"), positions, batch) == everything
    gradient = {"rank": 1, "micro_batches": [], "parameters": ["head.layers.0.weight"]}
    assert blamed_samples(Skip("non-finite gradient", (gradient,)), positions, batch) == everything


def norms_of_guard_and_engine(world_size: int, tp_size: int, other: dict[str, Any]) -> list[tuple[float, float, float, float]]:
    """Return per update: norm and mean loss of the guard, norm of the engine, mean loss of this rank's own micro-batches."""
    from model.parallel import init_parallel
    from recipes.cluster.world import join_world
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective
    from recipes.train.guard import UpdateGuard
    from recipes.train.spikes import SpikeStatistic

    recipe, config = resolved(world_size, tp_size, {}, {"train_micro_batch_size_per_gpu": 2, **other}, "optim.lr=0.01")
    world = join_world()
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    spikes, seen = SpikeStatistic(recipe.guard), []
    for step in range(4):
        guard = UpdateGuard(objective.student, parallel, recipe.guard, world, spikes)
        batches = [random_batch(recipe, 2, 100 * step + 10 * parallel.dp_rank + n) for n in range(config.batch.accumulation_steps)]
        losses = 0.0
        for number, batch in enumerate(batches):
            if number:
                objective.student.step()
            result = objective.forward(batch, 1)
            guard.note(result.loss)
            losses += float(result.loss)
            backward(objective.student, result.loss, 64, objective.parallel.dp_size)
        health = guard.judge(64)
        refused = guard.refusal(health)
        objective.student.step()
        skip = refused or guard.confirm(health)
        assert health.is_finite and skip is None and objective.student.was_step_applied(), (health, skip)
        seen.append((health.grad_norm, health.loss, float(objective.student.get_global_grad_norm()), losses / 64))
    assert [len(window) for window in spikes.state().values()] == [4, 4]
    return seen


@pytest.mark.parametrize(
    ("world_size", "tp_size", "other"),
    [(1, 1, {}), (2, 2, {}), (2, 1, {}), (2, 1, BF16), (1, 1, BF16 | OFFLOAD)],
    ids=["one", "tp2", "dp2", "dp2_bf16", "offload"],
)
def test_the_guards_norm_is_the_engines_to_1e_6_and_its_loss_the_mean_over_data_parallel_ranks(
    world_size: int, tp_size: int, other: dict[str, Any]
) -> None:
    per_rank = run_distributed(norms_of_guard_and_engine, world_size, world_size, tp_size, other, timeout=280)
    for updates in zip(*per_rank, strict=True):
        norms, losses, theirs, own = zip(*updates, strict=True)
        assert len(set(norms)) == 1 and len(set(losses)) == 1, "all ranks decide on the same numbers"
        assert norms[0] == pytest.approx(theirs[0], rel=1e-6)
        assert losses[0] == pytest.approx(sum(own) / tp_size, rel=1e-12 if tp_size == 1 else 1e-6)


def step_of_an_overflow(is_scaled: bool) -> tuple[str, float, bool, list[int]]:
    """Return reason, loss scale, whether a step was applied, and lengths of the spike windows, after an update with a non-finite gradient.

    The engine is fp32 with the loss scaler of fp16. It claims to be fp16 if `is_scaled`."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler

    from model.parallel import init_parallel
    from recipes.cluster.world import join_world
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective
    from recipes.train.guard import UpdateGuard
    from recipes.train.spikes import SpikeStatistic

    recipe, config = resolved(1, 1, {}, {})
    world = join_world()
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    student, spikes = objective.student, SpikeStatistic(recipe.guard)
    numbers = {"init_scale": 1024, "scale_window": 1000, "min_scale": 1, "delayed_shift": 1, "consecutive_hysteresis": False}
    student.optimizer.loss_scaler = CreateLossScaler(torch.half, static_loss_scale=0, dynamic_scaling=True, dynamic_loss_args=numbers)
    student.fp16_enabled = lambda: is_scaled
    next(student.module.head.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    guard, result = UpdateGuard(student, parallel, recipe.guard, world, spikes), objective.forward(random_batch(recipe, 8, 1), 1)
    guard.note(result.loss)
    backward(objective.student, result.loss, 64, objective.parallel.dp_size)
    health = guard.judge(64)
    skip = guard.refusal(health)
    if skip:
        shards.discard_update(student)
    else:
        student.step()
        skip = guard.confirm(health)
    assert skip is not None
    windows = [len(window) for window in spikes.state().values()]
    return skip.reason, student.optimizer.loss_scaler.cur_scale, student.was_step_applied(), windows


def test_a_gradient_that_is_not_finite_lowers_the_loss_scale_of_fp16_and_is_discarded_elsewhere() -> None:
    assert run_distributed(step_of_an_overflow, 1, True) == [("gradient overflow", 512.0, False, [0, 0])]
    assert run_distributed(step_of_an_overflow, 1, False) == [("non-finite gradient", 1024.0, False, [0, 0])]
