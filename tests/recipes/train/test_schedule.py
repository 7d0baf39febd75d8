"""The learning rate against the published values (docs: test vectors of fairseq's schedulers)."""

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.check import check_recipe
from recipes.config import OptimConfig
from recipes.errors import ConfigError
from recipes.text import text_tiny
from recipes.train.schedule import learning_rate

Schedule = Literal["cosine", "tri_stage", "linear"]
SPEECH_LR = OptimConfig(lr=5e-4, schedule="tri_stage", warmup_steps=12_000, decay_steps=28_000, schedule_steps=400_000, final_lr_scale=0.01)
TEXT_LR = OptimConfig(lr=2e-4, schedule="cosine", warmup_steps=10_000, schedule_steps=1_000_000)
SCHEDULES = ("tri_stage", "cosine", "linear")
RTE_LR = OptimConfig(lr=2e-5, schedule="linear", warmup_steps=122, schedule_steps=2_036)
"""data2vec.md section 10.1 (fairseq examples/roberta/config/finetuning/rte.yaml)."""


@pytest.mark.parametrize(
    ("updates", "rate"),
    [
        (0, 5e-6),
        (6_000, (5e-6 + 5e-4) / 2),
        (12_000, 5e-4),
        (200_000, 5e-4),
        (372_000, 5e-4),
        (386_000, 5e-5),  # half of an exponential decay to a hundredth
        (400_000, 5e-6),
        (500_000, 5e-6),
    ],
)
def test_tri_stage_is_speech_bases(updates: int, rate: float) -> None:
    assert learning_rate(SPEECH_LR, updates) == pytest.approx(rate, rel=1e-9)


def test_tri_stage_without_a_last_stage_stays_up() -> None:
    config = OptimConfig(lr=1.0, schedule="tri_stage", warmup_steps=10, decay_steps=0, schedule_steps=100)
    assert [learning_rate(config, n) for n in (0, 5, 10, 100, 1000)] == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("updates", "rate"), [(0, 0.0), (5_000, 1e-4), (10_000, 2e-4), (505_000, 1e-4), (1_000_000, 0.0), (2_000_000, 0.0)]
)
def test_cosine_warms_up_linearly_and_halves_at_half_way(updates: int, rate: float) -> None:
    assert learning_rate(TEXT_LR, updates) == pytest.approx(rate, rel=1e-9, abs=1e-18)


def test_cosine_ends_at_its_floor() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=0, schedule_steps=100, final_lr_scale=0.2)
    assert [learning_rate(config, n) for n in (0, 50, 100, 101)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize(("updates", "rate"), [(0, 0.0), (61, 1e-5), (122, 2e-5), (1_079, 1e-5), (2_036, 0.0), (3_000, 0.0)])
def test_linear_is_fairseqs_polynomial_decay_with_power_1_for_rte(updates: int, rate: float) -> None:
    assert learning_rate(RTE_LR, updates) == pytest.approx(rate, rel=1e-9, abs=1e-18)


def test_linear_ends_at_its_floor() -> None:
    config = OptimConfig(lr=1.0, schedule="linear", warmup_steps=0, schedule_steps=100, final_lr_scale=0.2)
    assert [learning_rate(config, n) for n in (0, 50, 75, 100, 101)] == pytest.approx([1.0, 0.6, 0.4, 0.2, 0.2])
    assert config.last_lr == pytest.approx(0.2) and RTE_LR.last_lr == 0


@pytest.mark.parametrize("config", [SPEECH_LR, TEXT_LR, replace(RTE_LR, schedule_steps=20_360, warmup_steps=12_200)], ids=SCHEDULES)
def test_no_schedule_jumps(config: OptimConfig) -> None:
    rates = [learning_rate(config, n) for n in range(0, config.schedule_steps + 2_000, 100)]
    assert max(abs(b - a) for a, b in pairwise(rates)) <= 0.02 * config.lr
    assert max(rates) == config.lr


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_that_is_all_warm_up_does_not_divide_by_zero(schedule: Schedule) -> None:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_steps=10, schedule_steps=10)
    assert [learning_rate(config, n) for n in (5, 10, 11)] == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(("schedule", "first"), [("cosine", 0.0), ("linear", 0.0), ("tri_stage", 0.25)])
def test_a_warm_up_begins_at_0_but_that_of_the_three_stages_at_the_floor(schedule: Schedule, first: float) -> None:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_steps=4, schedule_steps=20, final_lr_scale=0.25)
    assert [learning_rate(config, updates) for updates in (0, 2, 4)] == pytest.approx([first, (1 + first) / 2, 1.0])


@given(
    lr=st.sampled_from([-1.0, 1e-6, 2e-3, 5.0]),
    schedule=st.sampled_from(SCHEDULES),
    steps=st.tuples(st.integers(-1, 20), st.integers(-1, 20), st.integers(-1, 20)),
    final_lr_scale=st.sampled_from([-0.5, 0.0, 0.01, 1.0, 1.5]),
    max_steps=st.integers(1, 80),
)
def test_no_recipe_that_is_accepted_trains_at_a_rate_below_0_or_at_0_behind_its_schedule(
    lr: float, schedule: Schedule, steps: tuple[int, int, int], final_lr_scale: float, max_steps: int
) -> None:
    warmup, decay, rest = steps
    config = OptimConfig(
        lr=lr,
        schedule=schedule,
        warmup_steps=warmup,
        decay_steps=decay,
        schedule_steps=warmup + decay + rest,
        final_lr_scale=final_lr_scale,
    )
    tiny = text_tiny()
    try:
        check_recipe(replace(tiny, optim=config, run=replace(tiny.run, max_steps=max_steps)))
    except ConfigError:
        return
    rates = [learning_rate(config, updates) for updates in range(max_steps)]
    assert min(rates) >= 0 and max(rates) <= lr * (1 + 1e-12)
    assert min(rates[config.schedule_steps :], default=1.0) > 0
    # one later, as a warm-up of the whole schedule has its peak at its end
    assert learning_rate(config, config.schedule_steps + 1) == pytest.approx(config.last_lr, rel=1e-9, abs=1e-30)
