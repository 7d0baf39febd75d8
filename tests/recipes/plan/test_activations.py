"""The estimate of a micro-batch's activations against measured bytes at small widths. benchmarks/activation_memory.py has twelve larger
cases."""

from dataclasses import replace

import pytest
import torch

from activation_memory import Case, compare_recipe
from model.activations import Storage
from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.labelled_config import LabelledSpeechDataConfig
from recipes.plan.activations import activation_bytes
from recipes.settings import apply_overrides
from recipes.supervised_config import CtcConfig
from tests.distributed import run_distributed

TOLERANCE = 0.15
SMALL = ["model.num_layers=3", "model.hidden_size=64", "model.ffn_hidden_size=256", "model.num_attention_heads=4"]
CASES: list[tuple[Case, list[str]]] = [
    (Case("text_base", 8, 64), [*SMALL, "frontend.vocab_size=200", "teacher.average_top_k_layers=2"]),
    (Case("text_base", 4, 64, precision="bf16"), [*SMALL, "frontend.vocab_size=200", "teacher.average_top_k_layers=2"]),
    (Case("text_base", 8, 64, recomputes=True), [*SMALL, "frontend.vocab_size=200", "teacher.average_top_k_layers=1"]),
    (Case("speech_base", 2, 2), [*SMALL, "frontend.conv_dim=32", "teacher.average_top_k_layers=2"]),
    (Case("vision_base", 4, 0), [*SMALL, "teacher.average_top_k_layers=2"]),
    (Case("vision_tiny", 4, 0, precision="bf16"), ["model.activation=relu", "model.activation_dropout=0.1", "model.hidden_dropout=0.1"]),
]


def recipe_of(case: Case, changes: list[str]) -> Recipe:
    return apply_overrides(RECIPES[case.recipe.partition("_")[0]][case.recipe](), changes)


def compare_all() -> list[dict]:
    torch.set_num_threads(1)
    return [compare_recipe(recipe_of(case, changes), case) for case, changes in CASES]


def test_the_estimate_is_within_15_percent_of_the_measured_bytes_in_all_modalities() -> None:
    (found,) = run_distributed(compare_all, 1)
    assert all(abs(row["error"]) < TOLERANCE for row in found), [(case, row) for (case, _), row in zip(CASES, found, strict=True)]


def total(recipe: Recipe, micro: int = 8, storage: Storage | None = None, **options: bool) -> int:
    return activation_bytes(recipe, storage or Storage(2, on_gpu=True), micro, **options).total


@pytest.mark.parametrize("name", [name for recipes in RECIPES.values() for name in recipes])
def test_twice_the_samples_take_about_twice_the_bytes_and_recomputing_takes_less(name: str) -> None:
    recipe = RECIPES[name.partition("_")[0]][name]()
    assert total(recipe, 64) == pytest.approx(2 * total(recipe, 32), rel=0.02)
    assert total(recipe, 32, recomputes=True) < total(recipe, 32)
    assert total(recipe, 32, Storage(4, on_gpu=False)) >= total(recipe, 32, Storage(4, on_gpu=True)) > total(recipe, 32)


def test_a_frozen_trunk_keeps_nothing_and_frozen_features_keep_no_convolution() -> None:
    base = replace(RECIPES["speech"]["speech_base"](), data=LabelledSpeechDataConfig())
    by_frozen = {
        frozen: activation_bytes(replace(base, objective=CtcConfig(frozen=frozen)), Storage(2, on_gpu=True), 1)  # type: ignore[arg-type]
        for frozen in ("nothing", "features", "trunk")
    }
    assert "waveform" in by_frozen["nothing"].kept and "waveform" not in by_frozen["features"].kept
    assert not any(name.startswith("of a block") for name in by_frozen["trunk"].kept)
    assert by_frozen["nothing"].total > by_frozen["features"].total > by_frozen["trunk"].total
    assert all(one.further == {} for one in by_frozen.values()), "there is no teacher"


def test_the_longest_sample_of_the_data_counts() -> None:
    for modality, shorter in (("text", "data.sequence_length=256"), ("speech", "data.max_seconds=10")):
        recipe = RECIPES[modality][f"{modality}_base"]()
        assert total(apply_overrides(recipe, [shorter])) == pytest.approx(total(recipe) / 2, rel=0.02)
