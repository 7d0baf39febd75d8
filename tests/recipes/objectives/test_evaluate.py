"""Held-out evaluation: same numbers on any number of ranks, no trace left in the training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.config import apply_overrides
from recipes.ds_config import load_ds_config, resolve
from recipes.objectives.evaluate import heldout_batches
from recipes.text import text_tiny
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.recipes.data.numbers_data import Numbers

ROOT = Path(__file__).parents[3]


DROPOUTS = ("model.hidden_dropout=0.4", "model.attention_dropout=0.4", "model.activation_dropout=0.4", "model.block.layerdrop=0.5")


def evaluate_fresh(prepared: Path, world_size: int, samples: int, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Monitors of the untrained text_tiny."""
    from model.parallel import init_parallel
    from recipes.engine.build import build_engines
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.evaluate import evaluate

    recipe = apply_overrides(text_tiny(), [f"run.eval_samples={samples}", *settings])
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json"), "test", world_size)
    engines = build_engines(recipe, config, init_parallel(1, "cpu"))
    _, heldout = MODALITIES["text"].open_data(recipe, prepared)
    heard: list[int] = []
    metrics = evaluate(recipe, engines, heldout, 4, heard.append)
    assert heard == list(range(samples // world_size // 4)), "a sign of life per micro-batch, equally many on every rank"
    assert engines.student.module.training and not engines.teacher.module.training, "modes must be as before"
    return metrics


def test_monitors_do_not_depend_on_the_number_of_ranks(sample_prepared: Path) -> None:
    alone = run_distributed(evaluate_fresh, 1, sample_prepared, 1, 16)[0]
    assert set(alone) == {"eval_loss", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std"}
    for metrics in run_distributed(evaluate_fresh, 2, sample_prepared, 2, 16):
        assert metrics == pytest.approx(alone, rel=1e-5)


def test_nothing_is_dropped_in_an_evaluation(sample_prepared: Path) -> None:
    plain, dropping = (run_distributed(evaluate_fresh, 1, sample_prepared, 1, 16, settings)[0] for settings in ((), DROPOUTS))
    assert dropping == plain


def test_nothing_held_out_gives_no_monitors(sample_prepared: Path) -> None:
    assert run_distributed(evaluate_fresh, 1, sample_prepared, 1, 0)[0] == {}


def test_each_rank_evaluates_its_own_share_in_the_recipes_groups() -> None:
    recipe, data = tiny_recipe("speech", data__group_size=4, run__eval_samples=16), Numbers(20)
    groups: list[list[tuple[int, int]]] = []
    for dp_rank in range(2):
        parallel: Any = SimpleNamespace(dp_rank=dp_rank, dp_size=2)
        rows = [row for batch in heldout_batches(recipe, data, 4, parallel) for row in batch.inputs.tolist()]
        groups.append([(row[2], row[3]) for row in rows])
    spread = [20 * number // 16 for number in range(16)]
    rows_of_groups = [(min(part), sum(part)) for part in (spread[first : first + 4] for first in (0, 4, 8, 12)) for _ in part]
    assert groups == [rows_of_groups[:8], rows_of_groups[8:]]
