"""Results of fine-tuned runs: mean, deviation and error over seeds by hand, what is not defined, and the printed lines."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.config import Recipe
from recipes.finetune.results import add_results
from recipes.finetune.task_result import SplitScore, main_metric, next_line, result_lines, run_entry, scored_entries, seeds_entry
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from tests.launching import tiny_recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return text_recipe("classify", TEXT_TASKS["classify"], tiny_recipe())


def entry(recipe: Recipe, value: float, seed: int = 1, split: str = "test", **metrics: float) -> dict:
    one = replace(recipe, run=replace(recipe.run, seed=seed))
    score = SplitScore(split, {"f1": 0.5, "accuracy": value, **metrics}, 1234, Path(f"runs/seed_{seed}/predictions/{split}.csv"))
    checkpoint = Path(f"runs/seed_{seed}/checkpoints/step_00000007")
    return run_entry(one, score, checkpoint=checkpoint, step=7, started_from="random")


def test_one_run_has_its_value_and_no_deviation(recipe: Recipe) -> None:
    one = entry(recipe, 0.75)
    assert (one["metric"], one["mean"], one["std"], one["standard_error"], one["values"]) == ("accuracy", 0.75, None, None, [0.75])
    assert (one["task"], one["split"], one["from"], one["random_init"]) == ("classify", "test", "random", None)
    assert (one["seeds"], one["steps"], one["metrics"]["f1"]["mean"]) == ([1], [7], 0.5)


def test_mean_sample_deviation_and_standard_error_over_seeds_by_hand(recipe: Recipe) -> None:
    over = seeds_entry([entry(recipe, 0.7, 1), entry(recipe, 0.9, 2), entry(recipe, 0.8, 3)])
    assert over["values"] == [0.7, 0.9, 0.8] and over["seeds"] == [1, 2, 3]
    assert over["mean"] == pytest.approx(0.8) and over["std"] == pytest.approx(0.1)
    assert over["standard_error"] == pytest.approx(0.1 / math.sqrt(3))
    assert over["metrics"]["accuracy"]["standard_error"] == over["standard_error"] and over["metrics"]["f1"]["std"] == 0
    assert over["predictions"] == [f"runs/seed_{seed}/predictions/test.csv" for seed in (1, 2, 3)]


def test_a_metric_that_is_not_defined_for_a_seed_has_no_mean_and_the_file_is_strict_json(recipe: Recipe, tmp_path: Path) -> None:
    over = seeds_entry([entry(recipe, 0.7, pearson=0.1), entry(recipe, 0.9, pearson=math.nan)])
    assert over["metrics"]["pearson"] == {"mean": None, "std": None, "standard_error": None, "values": [0.1, None]}
    add_results(tmp_path, [over])
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert any("pearson not defined" in line for line in result_lines([over]))


def test_the_metric_that_stands_for_a_result_is_that_of_the_recipe_if_it_was_computed() -> None:
    assert main_metric("f1", {"accuracy": 1, "f1": 2}) == "f1"
    assert main_metric("", {"accuracy": 1, "f1": 2}) == main_metric("wer", {"accuracy": 1}) == "accuracy"


def test_the_lines_begin_with_the_main_metric_and_name_the_predictions(recipe: Recipe) -> None:
    assert result_lines([entry(recipe, 0.75)]) == [
        "test (1,234 samples): accuracy 0.7500  f1 0.5000",
        "  predictions: runs/seed_1/predictions/test.csv",
    ]
    assert result_lines([seeds_entry([entry(recipe, 0.7, 1), entry(recipe, 0.9, 2)])]) == [
        "test (1,234 samples, 2 seeds): accuracy 0.8000 +- 0.1000  f1 0.5000 +- 0.0000",
        "  accuracy of each seed: 0.7000, 0.9000",
    ]
    command = "next: python launch/convert.py export --from runs/seed_1/checkpoints/step_00000007 --out runs/seed_1_export"
    assert next_line(entry(recipe, 0.75), None) == command


def test_no_export_is_proposed_for_a_network_that_transformers_has_not(recipe: Recipe) -> None:
    said = next_line(entry(recipe, 0.75), "frontend.positions relative: absolute positions only")
    assert said.startswith("no export to transformers: frontend.positions relative: absolute positions only; load_encoder")


def test_only_entries_of_fine_tuning_for_this_task_are_scores(recipe: Recipe, tmp_path: Path) -> None:
    own, probe = entry(recipe, 0.75), entry(recipe, 0.5) | {"weights": "student"}
    add_results(tmp_path, [own, probe, entry(recipe, 0.5) | {"task": "sst2"}])
    assert scored_entries(tmp_path, recipe) == [own]
    assert scored_entries(tmp_path / "none", recipe) == []
