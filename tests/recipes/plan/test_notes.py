"""Notes on settings that are valid but perhaps unintended. The shipped recipes get none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.catalog import RECIPES
from recipes.ds_config import resolve
from recipes.plan.notes import notes, recommended_batch
from recipes.settings import apply_overrides
from recipes.speech import speech_base
from recipes.text import text_base

ALL = [build for recipes in RECIPES.values() for build in recipes.values()]


def notes_for(*changes: str, num_ranks: int = 1, num_devices: int = 0) -> list[str]:
    named = text_base()
    recipe = apply_overrides(named, list(changes))
    return notes(recipe, named, resolve(recipe, {}, "x", num_ranks), num_ranks, num_devices)


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
@pytest.mark.parametrize("num_ranks", [1, 8, 16])
def test_a_shipped_recipe_gets_no_note(build, num_ranks: int) -> None:  # type: ignore[no-untyped-def]
    recipe = build()
    recipe = apply_overrides(recipe, [f"run.global_batch_size={max(recipe.run.global_batch_size, 4 * num_ranks)}"])
    assert notes(recipe, recipe, resolve(recipe, {}, "x", num_ranks), num_ranks, num_ranks) == []


@pytest.mark.parametrize(
    ("total", "num_ranks", "better"),
    [(17, 1, 16), (257, 1, 256), (2 * 37, 2, 64), (34, 1, 32), (16, 1, None), (48, 1, None), (5, 1, None), (22, 1, None), (7 * 8, 8, None)],
)
def test_a_global_batch_that_divides_by_little_is_noted_with_a_better_one(total: int, num_ranks: int, better: int | None) -> None:
    said = notes_for(f"run.global_batch_size={total}", num_ranks=num_ranks)
    assert [f"--set run.global_batch_size={better} would" in line for line in said] == ([] if better is None else [True])
    if better:
        assert notes_for(f"run.global_batch_size={better}", num_ranks=num_ranks) == []


def test_small_micro_batches_because_of_the_group_size_get_no_note() -> None:
    recipe = apply_overrides(speech_base(), ["data.group_size=1", "run.global_batch_size=320"])
    assert notes(recipe, recipe, resolve(recipe, {}, "x", 1), 1, 0) == []


@pytest.mark.parametrize(("num_ranks", "num_devices", "num_idle"), [(1, 8, 7), (4, 8, 4), (8, 8, 0), (8, 0, 0), (8, 1, 0)])
def test_devices_without_a_rank_are_counted(num_ranks: int, num_devices: int, num_idle: int) -> None:
    said = notes_for(num_ranks=num_ranks, num_devices=num_devices)
    assert len(said) == bool(num_idle)
    if num_idle:
        assert f"has {num_devices} GPUs and {num_ranks} ranks, so {num_idle} stay idle; " in said[0] and "--gpus-per-node=8" in said[0]


def test_an_unchanged_inner_width_is_noted_with_the_proportional_one() -> None:
    narrow = "model.hidden_size=384"
    assert notes_for(narrow) == [
        "note: model.hidden_size is 384, not 768, and model.ffn_hidden_size is still 3072; "
        "--set model.ffn_hidden_size=1536 keeps the proportion"
    ]
    assert notes_for(narrow, "model.ffn_hidden_size=1536") == notes_for(narrow, "model.ffn_hidden_size=100") == []


def test_a_run_that_ends_within_its_warm_up_is_noted() -> None:
    (line,) = notes_for("run.max_steps=10000")
    assert "run.max_steps 10000 ends within optim.warmup_steps 10000, so the learning rate never reaches 0.0002" in line
    assert notes_for("run.max_steps=10001") == []


def test_checkpoints_that_are_never_kept_are_noted() -> None:
    (line,) = notes_for("checkpoint.keep_every_steps=2000", "run.save_steps=3000")
    assert "only those at multiples of 6000 stay for ever" in line
    assert notes_for("checkpoint.keep_every_steps=6000", "run.save_steps=3000") == notes_for("run.save_steps=7") == []


@pytest.mark.parametrize(("num_ranks", "micro", "better"), [(1, 8, None), (16, 4, None), (32, 2, 256), (64, 1, 256), (160, 2, 640)])
def test_micro_batches_of_few_recordings_are_noted_with_a_global_batch_for_so_many_ranks(
    num_ranks: int, micro: int, better: int | None
) -> None:
    recipe = speech_base()
    config = resolve(recipe, {}, "x", num_ranks)
    assert config.batch.micro_batch_size == micro
    said = notes(recipe, recipe, config, num_ranks, 0)
    if better is None:
        assert said == []
        return
    (line,) = said
    assert f"has only {micro} sample" in line and f"on {num_ranks} data-parallel ranks --set run.global_batch_size={better} would" in line
    recipe = apply_overrides(recipe, [f"run.global_batch_size={better}"])
    assert notes(recipe, recipe, resolve(recipe, {}, "x", num_ranks), num_ranks, 0) == []


def test_a_size_that_the_ds_config_names_gets_no_note() -> None:
    recipe = speech_base()
    assert notes(recipe, recipe, resolve(recipe, {"train_micro_batch_size_per_gpu": 1}, "x", 32), 32, 0) == []


@given(st.integers(1, 512), st.integers(1, 300), st.integers(4, 24))
def test_a_recommended_batch_leaves_four_samples_or_more_on_any_number_of_ranks(groups: int, dp_size: int, group_size: int) -> None:
    total = recommended_batch(groups * group_size, dp_size, group_size)
    assert total % group_size == 0 and total % dp_size == 0
    assert math.gcd(total // dp_size, group_size) >= 4
