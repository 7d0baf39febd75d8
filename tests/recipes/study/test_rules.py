"""Rules: what follows from a cell's sizes and its budget, on numbers that are computed by hand. The base is text_tiny."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.config import Recipe
from recipes.settings import with_values
from recipes.study.rules import BATCH_STEP, BY_DEFAULT, ROWS, RULES, apply_rules
from recipes.text import text_base, text_base_bert_mask, text_tiny

ALL = {name: rule.exponent for name, rule in RULES.items()}


def follows(rule: str, exponent: float | None = None, given: tuple[str, ...] = (), **changes: Any) -> tuple[Recipe, dict[str, str]]:
    values = {name.replace("__", "."): value for name, value in changes.items()}
    return apply_rules(with_values(text_tiny(), values), text_tiny(), {rule: exponent}, [*values, *given])


@pytest.mark.parametrize("base", [text_tiny(), text_base(), text_base_bert_mask()], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("rule", sorted(set(ALL) - {"intervals"}))
def test_the_base_itself_is_unchanged(rule: str, base: Recipe) -> None:
    if rule == "schedule":
        assert base.optim.schedule_steps == base.run.max_steps
    assert apply_rules(base, base, {rule: ALL[rule]}, []) == (base, {})


def test_heads_keep_their_size_and_divide_the_width() -> None:
    assert follows("head_size", model__hidden_size=256)[0].model.num_attention_heads == 8
    assert follows("head_size", model__hidden_size=32)[0].model.num_attention_heads == 1
    assert follows("head_size", model__hidden_size=16)[0].model.num_attention_heads == 1
    assert follows("head_size", model__hidden_size=224 + 2)[0].model.num_attention_heads == 2


@given(st.integers(1, 4096))
def test_heads_divide_every_width(width: int) -> None:
    model = follows("head_size", model__hidden_size=width)[0].model
    assert model.hidden_size % model.num_attention_heads == 0 and 1 <= model.num_attention_heads <= max(1, round(width / 32))


def test_the_feed_forward_layer_and_the_top_layers_keep_their_ratios() -> None:
    assert follows("ffn_ratio", model__hidden_size=48)[0].model.ffn_hidden_size == 192
    assert follows("top_layers", model__num_layers=6)[0].teacher.average_top_k_layers == 6
    base = text_base()
    deep = apply_rules(with_values(base, {"model.num_layers": 24}), base, {"top_layers": None}, [])
    assert deep[0].teacher.average_top_k_layers == 20 and deep[1] == {"teacher.average_top_k_layers": ["top_layers"]}
    assert apply_rules(with_values(base, {"model.num_layers": 1}), base, {"top_layers": None}, [])[0].teacher.average_top_k_layers == 1


@pytest.mark.parametrize(("exponent", "rate"), [(0.0, 2e-3), (0.5, 4e-3), (1.0, 8e-3), (-0.5, 1e-3)])
def test_the_learning_rate_follows_the_width(exponent: float, rate: float) -> None:
    assert follows("lr_width", exponent, model__hidden_size=32)[0].optim.lr == pytest.approx(rate, rel=1e-3)


def test_the_learning_rate_follows_the_batch() -> None:
    assert follows("lr_batch", 0.5, run__global_batch_size=64)[0].optim.lr == pytest.approx(4e-3)
    assert follows("lr_batch", 1.0, run__global_batch_size=8)[0].optim.lr == pytest.approx(1e-3)


def test_both_rules_of_the_learning_rate_multiply() -> None:
    changed = with_values(text_tiny(), {"model.hidden_size": 512, "run.global_batch_size": 64})
    assert apply_rules(changed, text_tiny(), {"lr_width": 0.5, "lr_batch": 0.5}, [])[0].optim.lr == pytest.approx(2e-3)


def test_the_schedule_warm_up_and_anneal_end_with_the_run() -> None:
    assert follows("schedule", run__max_steps=500)[0].optim.schedule_steps == 500
    recipe, derived = apply_rules(with_values(text_tiny(), {"run.max_steps": 500}), text_tiny(), BY_DEFAULT, ["run.max_steps"])
    assert (recipe.optim.schedule_steps, recipe.optim.warmup_steps, recipe.teacher.ema_anneal_end_step) == (500, 25, 500)
    assert derived["optim.warmup_steps"] == ["warmup"] and derived["teacher.ema_anneal_end_step"] == ["ema_anneal"]
    base = text_base_bert_mask()
    stages = apply_rules(with_values(base, {"run.max_steps": 1000}), base, BY_DEFAULT, ["run.max_steps"])[0].optim
    assert (stages.warmup_steps, stages.decay_steps, stages.schedule_steps) == (50, 150, 1000)


@given(st.integers(1, 10_000_000), st.integers(0, 1000), st.integers(0, 1000))
def test_the_stages_fit_into_every_schedule(steps: int, warmup: int, decay: int) -> None:
    base = replace(text_tiny(), optim=replace(text_tiny().optim, warmup_steps=warmup, decay_steps=decay))
    optim = apply_rules(with_values(base, {"run.max_steps": steps}), base, BY_DEFAULT, ["run.max_steps"])[0].optim
    assert optim.warmup_steps + optim.decay_steps <= optim.schedule_steps == steps


@pytest.mark.parametrize(("steps", "log", "save"), [(1, 1, 1), (39, 1, 10), (80, 2, 20), (81, 2, 21), (4000, 100, 1000)])
def test_a_run_has_its_rows_checkpoints_and_one_evaluation(steps: int, log: int, save: int) -> None:
    run = follows("intervals", run__max_steps=steps)[0].run
    assert (run.log_steps, run.save_steps, run.eval_steps) == (log, save, steps)
    assert steps < ROWS or steps // run.log_steps >= ROWS


def test_the_batch_grows_with_the_square_root_of_the_samples_and_keeps_them() -> None:
    long = with_values(text_tiny(), {"run.max_steps": 32_000})
    run = apply_rules(long, text_tiny(), {"batch": 0.5}, [])[0].run
    assert (run.global_batch_size, run.max_steps) == (64, 8_000)


@given(st.integers(10, 1_000_000), st.floats(0, 1))
def test_a_derived_batch_is_a_multiple_and_keeps_the_samples(steps: int, exponent: float) -> None:
    cell = with_values(text_tiny(), {"run.max_steps": steps})
    run = apply_rules(cell, text_tiny(), {"batch": exponent}, [])[0].run
    assert run.global_batch_size % BATCH_STEP == 0
    assert abs(run.max_steps * run.global_batch_size - steps * 16) <= max(run.global_batch_size / 2, 16 * 10)


def test_the_batch_leaves_the_length_alone_if_the_study_sets_it() -> None:
    run = follows("batch", 0.5, run__max_steps=8_000)[0].run
    assert (run.global_batch_size, run.max_steps) == (32, 8_000)


def test_a_batch_that_the_study_sets_keeps_the_length_of_the_run() -> None:
    """The samples, and so the budget, are those of the batch that the cell has."""
    cell = with_values(text_tiny(), {"run.max_steps": 32_000, "run.global_batch_size": 8})
    run = apply_rules(cell, text_tiny(), {"batch": 0.5}, ["run.global_batch_size"])[0].run
    assert (run.global_batch_size, run.max_steps) == (8, 32_000)


CHANGED = {"model.hidden_size": 64, "model.num_layers": 1, "run.max_steps": 300, "run.global_batch_size": 32}


@pytest.mark.parametrize("name", sorted(apply_rules(with_values(text_tiny(), CHANGED), text_tiny(), ALL, [])[1]))
def test_a_rule_leaves_alone_what_the_study_sets(name: str) -> None:
    cell = with_values(text_tiny(), CHANGED)
    recipe, derived = apply_rules(cell, text_tiny(), ALL, [name])
    section, key = name.split(".")
    assert getattr(getattr(recipe, section), key) == getattr(getattr(cell, section), key) and name not in derived


def test_no_rule_follows_if_all_are_off() -> None:
    cell = with_values(text_tiny(), CHANGED)
    assert apply_rules(cell, text_tiny(), {}, []) == (cell, {})


def test_every_rule_has_a_sentence_and_its_name_once() -> None:
    assert len({rule.sentence for rule in RULES.values()}) == len(RULES) and BY_DEFAULT.keys() == RULES.keys() - {"batch"}
