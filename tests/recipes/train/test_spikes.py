"""A spike is a value far above a robust running statistic: upwards only, only if the window is full, and the same after a resume."""

import json
import random
from typing import Any

import pytest

from recipes.config import GuardConfig
from recipes.train.spikes import SpikeStatistic

WINDOW = 32


def filled(**settings: Any) -> SpikeStatistic:
    """Return a statistic with a full window: losses 1 +- 0.03, gradient norms 2 +- 0.5 (mean and standard deviation)."""
    spikes, rng = SpikeStatistic(GuardConfig(spike_window=WINDOW, **settings)), random.Random(0)
    for _ in range(WINDOW):
        spikes.add(rng.gauss(1.0, 0.03), rng.gauss(2.0, 0.5))
    return spikes


def test_a_value_ten_deviations_above_the_median_is_a_spike_and_one_five_above_is_not() -> None:
    spikes = filled()
    assert spikes.find(1.15, 4.5) == []
    (spike,) = spikes.find(1.6, 4.5)
    assert (spike.quantity, spike.value) == ("loss", 1.6)
    assert spike.median == pytest.approx(1.0, abs=0.02)
    assert spike.deviations == pytest.approx(0.6 / 0.03, rel=0.4)
    assert [spike.quantity for spike in spikes.find(1.6, 40.0)] == ["loss", "grad_norm"]


def test_a_value_far_below_is_none() -> None:
    assert filled().find(-100.0, 0.0) == []


def test_there_is_none_before_the_window_is_full() -> None:
    spikes = SpikeStatistic(GuardConfig(spike_window=WINDOW))
    for number in range(WINDOW):
        assert spikes.find(1e9, 1e9) == [], number
        spikes.add(1.0, 1.0)
    assert len(spikes.find(1e9, 1e9)) == 2


def test_half_of_the_window_minus_one_may_be_spikes_without_moving_the_median_away() -> None:
    spikes = filled()
    for _ in range(WINDOW // 2 - 1):
        assert spikes.find(100.0, 1.0)
        spikes.add(100.0, 1.0)
    assert spikes.find(100.0, 1.0)


def test_a_window_without_any_variation_allows_a_tenth() -> None:
    spikes = SpikeStatistic(GuardConfig(spike_window=WINDOW))
    for _ in range(WINDOW):
        spikes.add(2.0, 0.0)
    assert spikes.find(2.19, 0.0) == []
    assert [spike.quantity for spike in spikes.find(2.21, 1e-6)] == ["loss", "grad_norm"]


def test_old_values_leave_the_window() -> None:
    spikes = filled()
    assert spikes.find(5.0, 2.0)
    for _ in range(WINDOW):
        spikes.add(5.0, 2.0)
    assert spikes.find(5.0, 2.0) == []


def test_off_finds_nothing_and_the_number_of_deviations_is_the_recipes() -> None:
    assert filled(spike="off").find(1e9, 1e9) == []
    assert filled(spike_deviations=1e6).find(100.0, 2.0) == []
    assert filled(spike_deviations=3.0).find(1.3, 2.0)


def test_a_resumed_statistic_decides_as_the_uninterrupted_one() -> None:
    whole, rng = filled(), random.Random(1)
    resumed = SpikeStatistic(GuardConfig(spike_window=WINDOW))
    resumed.load(json.loads(json.dumps(whole.state())))
    for _ in range(3 * WINDOW):
        loss, norm = rng.gauss(1.0, 0.3), rng.gauss(2.0, 5.0)
        assert whole.find(loss, norm) == resumed.find(loss, norm)
        for spikes in (whole, resumed):
            spikes.add(loss, norm)
    assert whole.state() == resumed.state()


def test_a_shorter_window_keeps_the_newest_values_and_an_absent_state_is_an_empty_one() -> None:
    state = filled().state()
    shorter = SpikeStatistic(GuardConfig(spike_window=8))
    shorter.load(state)
    assert shorter.state() == {name: window[-8:] for name, window in state.items()}
    shorter.load({})
    assert shorter.state() == {"loss": [], "grad_norm": []}
