"""data2vec on its engines: its loss, the sum of gradients of unequal micro-batches, and the check for a collapse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.batch import Batch, Masks
from recipes.errors import TrainingBroken
from recipes.objectives.data2vec import Data2Vec
from recipes.settings import apply_overrides
from recipes.text import text_base
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, random_batch, resolved

RECIPE = apply_overrides(text_base(), ["guard.after_steps=100", "guard.min_target_std=0.1", "guard.min_pred_std=0.01"])
HEALTHY = {"step": 200, "loss": 1.0, "target_std": 0.11, "pred_std": 0.011}


def split(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch."""
    mask_BS = batch.masks.mask_BS[rows]
    return Batch(batch.inputs[rows], batch.clean_inputs[rows], Masks.of(mask_BS), None, None, mask_BS.numel())


def gradients(micro_batch_size: int) -> dict[str, Any]:
    """Return the gradients of one update of 8 rows with very unequal masks, split into micro-batches."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, {}, {"train_micro_batch_size_per_gpu": micro_batch_size})
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    batch = random_batch(recipe, 8, 3)
    batch.masks.mask_BS[:4, 2:] = False  # the first rows have hardly a masked position
    batch = split(batch, slice(None))
    for start in range(0, 8, micro_batch_size):
        part = split(batch, slice(start, start + micro_batch_size))
        result = objective.forward(part, 1)
        assert not result.target_BSD.requires_grad and torch.equal(result.target_BSD[part.masks.mask_BS], result.target_MD)
        backward(objective.student, result.loss, batch.masks.num_masked, objective.parallel.dp_size)
        if start + micro_batch_size == 8:
            return {n: shards.gradient_shard(p).clone() for n, p in shards.named_parameters(objective.student)}
        objective.student.step()
    raise AssertionError("no last micro-batch")


def test_micro_batches_with_few_masked_positions_do_not_weigh_more() -> None:
    whole, cut = (run_distributed(gradients, 1, size)[0] for size in (8, 2))
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, rtol=1e-4, atol=1e-6), name


def loss_with_settings() -> tuple[float, float, float]:
    """Return the objective's loss of a batch, then regression_loss of its predictions with the recipe's and with default settings."""
    from model.config import LossConfig
    from model.loss import regression_loss
    from model.parallel import init_parallel
    from recipes.objectives.registry import build_objective

    own = LossConfig(beta=3.0, scale=0.25)
    recipe, config = resolved(1, 1, {}, {}, "loss.beta=3.0", "loss.scale=0.25")
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    result = objective.forward(random_batch(recipe, 8, 3), 1)
    ours, others = (float(regression_loss(result.prediction_MD, result.target_MD, settings)) for settings in (own, LossConfig()))
    return float(result.loss), ours, others


def test_the_loss_has_the_settings_that_it_was_given() -> None:
    ((loss, expected, other),) = run_distributed(loss_with_settings, 1)
    assert loss == expected != other


def check(metrics: dict[str, float]) -> None:
    """Call Data2Vec.check with RECIPE, without engines."""
    objective: Any = SimpleNamespace(_recipe=RECIPE)
    Data2Vec.check(objective, metrics)


def test_a_healthy_run_goes_on() -> None:
    check(HEALTHY)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"target_std": 0.09},
            r"collapsed at step 200: target_std 0\.0900 is below 0\.1; look at target_std and target_rank in metrics\.jsonl",
        ),
        ({"pred_std": 0.009}, r"collapsed at step 200: pred_std 0\.0090 is below 0\.01"),
        ({"target_std": 0.09, "step": 101}, r"collapsed at step 101: target_std"),
    ],
)
def test_a_collapse_stops_the_run(change: dict[str, float], complaint: str) -> None:
    with pytest.raises(TrainingBroken, match=complaint) as caught:
        check(HEALTHY | change)
    assert "\n" not in str(caught.value)


def test_the_first_steps_may_be_flat() -> None:
    check(HEALTHY | {"step": 100, "target_std": 0.0, "pred_std": 0.0})


def test_thresholds_are_fairseqs() -> None:
    guard = text_base().guard
    assert (guard.min_target_std, guard.min_pred_std) == (0.1, 0.01)


def follow_the_student(precision: dict[str, Any]) -> tuple[list[float], list[float], float, float]:
    """Return the reported and the used decay of each of four steps, and the distance of teacher and student after them and after a
    restart. Checks that the teacher computes with the rounded shadow weights."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.objectives.registry import build_objective

    settings = ("teacher.ema_decay=0.5", "teacher.ema_end_decay=0.9", "teacher.ema_anneal_end_step=4")
    recipe, config = resolved(1, 1, {}, precision, *settings)
    objective: Any = build_objective(recipe, config, init_parallel(1, "cpu"))
    student, used, update = dict(shards.named_parameters(objective.student)), list[float](), objective.shadow.update
    teacher = dict(shards.named_parameters(objective.teacher))

    def distance() -> float:
        kept = objective.shards()["shadow"]
        used = {n: shards.compute_shard(p) for n, p in teacher.items()}
        assert {shadow.dtype for shadow in kept.values()} == {torch.float32} and kept.keys() == used.keys()
        assert all(torch.equal(used[n], shadow.to(used[n].dtype)) for n, shadow in kept.items()), "the teacher computes with it"
        return max(float((shadow - shards.master_shard(student[n])).abs().max()) for n, shadow in kept.items())

    def record(decay: float) -> None:
        used.append(decay)
        update(decay)

    objective.shadow.update = record
    for parameter in student.values():
        shards.master_shard(parameter).add_(1.0)
    reported = [objective.after_step(step)["ema_decay"] for step in (1, 2, 3, 4)]
    apart = distance()
    for shadow in objective.shards()["shadow"].values():
        shadow.mul_(3.0)  # as a load writes it
    objective.after_load()
    distance()
    objective.restart()
    return reported, used, apart, distance()


@pytest.mark.parametrize("precision", [{}, BF16], ids=["fp32", "bf16"])
def test_the_teacher_follows_with_the_decay_of_the_step_and_a_restart_makes_it_the_student(precision: dict[str, Any]) -> None:
    ((reported, used, apart, after),) = run_distributed(follow_the_student, 1, precision)
    assert reported == used == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert apart == pytest.approx(0.6 * 0.7 * 0.8 * 0.9, rel=1e-3) and after == 0.0
