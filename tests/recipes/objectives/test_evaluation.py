"""Held-out evaluation gives the same numbers on any number of ranks and does not change the training."""

from pathlib import Path
from typing import Any

import pytest

from recipes.ds_config import load_ds_config, resolve
from recipes.settings import apply_overrides
from recipes.text import text_tiny
from tests.distributed import run_distributed
from tests.launching import tiny_recipe

ROOT = Path(__file__).parents[3]
DROPOUTS = ("model.hidden_dropout=0.4", "model.attention_dropout=0.4", "model.activation_dropout=0.4", "model.block.layerdrop=0.5")


def evaluate_fresh(prepared: Path, world_size: int, samples: int, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the monitors of an untrained text_tiny."""
    from model.parallel import init_parallel
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.registry import build_objective
    from recipes.train.loading import heldout_batches

    recipe = apply_overrides(text_tiny(), [f"run.eval_samples={samples}", *settings])
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | {"train_micro_batch_size_per_gpu": 4}
    config = resolve(recipe, content, "test", world_size)
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    _, heldout = MODALITIES["text"].open_data(recipe, prepared)
    beats: list[int] = []
    batches = heldout_batches(recipe, heldout, config.batch, objective.parallel)
    metrics = objective.evaluate(batches, beats.append)
    share = max(1, samples // world_size) if samples else 0
    assert beats == list(range(-(-share // 4))), "one heartbeat per micro-batch, equally many on every rank"
    assert objective.student.module.training and not objective.teacher.module.training, "modes must be as before"
    return metrics


@pytest.mark.slow
def test_monitors_do_not_depend_on_the_number_of_ranks(sample_prepared: Path) -> None:
    alone = run_distributed(evaluate_fresh, 1, sample_prepared, 1, 16)[0]
    assert set(alone) == {"eval_loss", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std"}
    for metrics in run_distributed(evaluate_fresh, 2, sample_prepared, 2, 16):
        assert metrics == pytest.approx(alone, rel=1e-5)


def test_three_samples_on_four_ranks_give_the_monitors_of_one_rank_to_1e_5(sample_prepared: Path) -> None:
    alone = run_distributed(evaluate_fresh, 1, sample_prepared, 1, 3)[0]
    for metrics in run_distributed(evaluate_fresh, 4, sample_prepared, 4, 3):
        assert metrics == pytest.approx(alone, rel=1e-5)


def test_nothing_is_dropped_in_an_evaluation(sample_prepared: Path) -> None:
    plain, dropping = (run_distributed(evaluate_fresh, 1, sample_prepared, 1, 16, settings)[0] for settings in ((), DROPOUTS))
    assert dropping == plain


def test_nothing_held_out_gives_no_monitors(sample_prepared: Path) -> None:
    assert run_distributed(evaluate_fresh, 1, sample_prepared, 1, 0)[0] == {}


def spreads_of_the_frontend() -> tuple[float, float]:
    """Return frontend_std of a vision model, before and after its class token (a prefix of the patches) is set to a huge value."""
    import numpy as np

    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.registry import build_objective

    recipe = tiny_recipe("vision")
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json"), "test", 1)
    objective: Any = build_objective(recipe, config, init_parallel(1, "cpu"))
    batch = MODALITIES["vision"].random_batch(recipe, 4, 0, np.random.default_rng(1))
    before = objective.evaluate([batch])["frontend_std"]
    shards.master_shard(dict(shards.named_parameters(objective.student))["trunk.frontend.cls_vector"]).fill_(1e3)
    shards.refresh_compute_weights(objective.student)
    return before, objective.evaluate([batch])["frontend_std"]


def test_the_frontends_monitor_is_of_the_samples_own_positions() -> None:
    ((before, after),) = run_distributed(spreads_of_the_frontend, 1)
    assert before == after > 0
