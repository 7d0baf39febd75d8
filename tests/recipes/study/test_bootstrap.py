"""Intervals of a law: wider with more noise, the same for the same seed, and the seeds of a cell stay together."""

import numpy as np
import pytest

from recipes.study import bootstrap
from recipes.study.bootstrap import LEVEL, Blocks, Bootstrap, Estimate, interval
from recipes.study.law import fit_law

SIZES = np.repeat(np.geomspace(1e5, 1e7, 8), 2)
CELLS = np.repeat(np.arange(8), 2)
FAR = np.log([[2e7]])


def width(estimate: Estimate) -> float:
    """Return the distance between the ends of an interval."""
    return estimate.high - estimate.low


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer repetitions, for seconds."""
    monkeypatch.setattr(bootstrap, "REPETITIONS", 80)


def made(noise: float, seed: int = 0) -> Bootstrap:
    """Return the bootstrap of a law of the size, measured with this noise. `seed`: of the bootstrap alone."""
    errors_N = noise * np.random.default_rng(5).standard_normal(len(SIZES))
    log_x_NJ, log_y_N = np.log(SIZES)[:, None], np.log(0.35 + 25.0 * SIZES**-0.35) + errors_N
    return Bootstrap(fit_law(log_x_NJ, log_y_N), log_x_NJ, log_y_N, CELLS, np.random.default_rng(seed))


def test_more_noise_makes_wider_intervals() -> None:
    quiet, loud = made(0.001), made(0.01)
    assert 0 < 3 * width(quiet.exponent(0)) < width(loud.exponent(0))
    assert 0 < 3 * width(quiet.irreducible()) < width(loud.irreducible())
    assert 0 < 3 * width(quiet.values(FAR)[0]) < width(loud.values(FAR)[0])
    assert 0 < 3 * width(quiet.predictions(FAR, 2)[0]) < width(loud.predictions(FAR, 2)[0])


def test_the_same_seed_gives_the_same_intervals_and_another_one_others() -> None:
    first, again, other = made(0.01, seed=1), made(0.01, seed=1), made(0.01, seed=2)
    assert first.exponent(0) == again.exponent(0) and first.predictions(FAR, 2) == again.predictions(FAR, 2)
    assert first.exponent(0).value == other.exponent(0).value
    assert first.exponent(0)[1:] != other.exponent(0)[1:]


def test_a_prediction_of_a_measurement_is_wider_than_the_interval_of_the_law() -> None:
    found = made(0.01)
    places = np.log([[1e5], [1e6], [2e7]])
    for value, prediction in zip(found.values(places), found.predictions(places, 1), strict=True):
        assert width(prediction) > width(value)
        assert prediction.value == value.value and value.contains(value.value)


def test_the_estimates_are_those_of_the_law_itself() -> None:
    found = made(0.01)
    assert found.exponent(0).value == found.law.exponents[0] and found.irreducible().value == found.law.irreducible
    assert found.values(FAR)[0].value == pytest.approx(float(np.exp(found.law.log_values(FAR)[0])))


def test_the_seeds_of_a_cell_stay_together_in_a_drawn_error() -> None:
    """Residuals that are equal within a cell and differ between cells stay equal within every drawn one."""
    residuals_N = np.repeat(np.linspace(-1, 1, 8), 2)
    blocks = Blocks(residuals_N, CELLS, 3, np.random.default_rng(0))
    drawn = np.array([blocks.draw(CELLS, 1.0) for _ in range(50)])
    assert (drawn[:, 0::2] == drawn[:, 1::2]).all()
    assert len(np.unique(drawn.round(9))) == 8, "errors of all cells are drawn"


def test_the_means_of_cells_are_widened_for_the_parameters_of_the_fit() -> None:
    residuals_N = np.linspace(-1, 1, 8)
    blocks = Blocks(residuals_N, np.arange(8), 3, np.random.default_rng(0))
    drawn = {round(float(blocks.block(1)[0]), 9) for _ in range(300)}
    assert max(drawn) == pytest.approx(np.sqrt(8 / 5)) and min(drawn) == pytest.approx(-np.sqrt(8 / 5))


def test_differences_between_seeds_are_drawn_without_repeating_one_before_all_were_used() -> None:
    residuals_N = np.array([-0.1, 0.1, -0.1, 0.1])
    blocks = Blocks(residuals_N, np.array([0, 0, 1, 1]), 1, np.random.default_rng(0))
    for _ in range(20):
        assert sorted(blocks.block(2).round(9).tolist()) == [-0.1, 0.1]
    assert len(blocks.block(5)) == 5 and len(blocks.block(1)) == 1, "more and fewer seeds than were fitted"


def test_few_cells_make_the_factors_of_the_errors_vary_more() -> None:
    few, many = (Blocks(np.zeros(count), np.arange(count), 3, np.random.default_rng(0)).scales(4000) for count in (5, 50))
    assert few.std() > 3 * many.std() and np.median(many) == pytest.approx(1.0, abs=0.05)


def test_an_interval_has_the_level_of_the_quantiles() -> None:
    found = interval(0.5, np.linspace(0, 1, 1001))
    assert found == Estimate(0.5, pytest.approx(0.05), pytest.approx(0.95)) and width(found) == pytest.approx(LEVEL)
    assert found.contains(0.05 + 1e-9) and not found.contains(0.96)
    assert interval(1.0, np.array([1.0, np.inf, np.inf, 2.0] * 5), method="nearest").high == np.inf
