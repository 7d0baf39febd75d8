"""How often to save: the published examples, and advice from measurements."""

import math

import pytest

from recipes.errors import ConfigError
from recipes.ledger.save_interval import advise, daly_interval, young_interval


@pytest.mark.parametrize(("mtbf", "published"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_dalys_interval_is_that_of_his_examples(mtbf: float, published: float) -> None:
    """Minutes, with a dump of 5 minutes. Source: Daly 2006, captions of figures 3, 4 and 5."""
    assert daly_interval(5, mtbf) == pytest.approx(published, abs=0.5 if published > 10 else 0.05)


def test_youngs_interval_is_the_first_order_approximation() -> None:
    assert young_interval(5, 24 * 60) == 120
    assert daly_interval(1e-6, 1e6) == pytest.approx(young_interval(1e-6, 1e6), rel=1e-5)


@pytest.mark.parametrize(("cost", "interval"), [(200.0, 100.0), (1e6, 100.0)])
def test_if_a_save_takes_two_mtbf_or_more_the_interval_is_the_mtbf(cost: float, interval: float) -> None:
    assert daly_interval(cost, 100.0) == interval


def test_advice_comes_from_medians_and_is_rounded_up_to_whole_steps() -> None:
    advice = advise([9.0, 2.0, 1.0], [5.0], [0.5, 0.7, 99.0], mtbf_hours=1)
    assert advice is not None
    assert (advice["cost_seconds"], advice["write_seconds"], advice["step_seconds"]) == (2.0, 5.0, 0.7)
    assert advice["young_seconds"] == 120 and advice["daly_seconds"] == daly_interval(2.0, 3600)
    assert advice["interval_seconds"] == advice["daly_seconds"]
    assert advice["save_steps"] == math.ceil(advice["daly_seconds"] / 0.7)


def test_the_interval_is_not_shorter_than_a_write() -> None:
    advice = advise([0.0], [100.0], [30.0], mtbf_hours=24)
    assert advice is not None
    assert (advice["daly_seconds"], advice["interval_seconds"], advice["save_steps"]) == (0.0, 100.0, 4)


@pytest.mark.parametrize(("costs", "steps"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_there_is_no_advice_without_a_measurement(costs: list[float], steps: list[float]) -> None:
    assert advise(costs, [1.0], steps, mtbf_hours=24) is None


@pytest.mark.parametrize("hours", [0.0, -1.0, math.inf, math.nan])
def test_a_mean_time_that_is_not_positive_and_finite_is_refused(hours: float) -> None:
    with pytest.raises(ConfigError, match=r"--mtbf-hours .*: must be a number of hours above 0"):
        advise([1.0], [1.0], [1.0], mtbf_hours=hours)
