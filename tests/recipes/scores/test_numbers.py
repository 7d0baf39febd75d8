"""Metrics of numbers equal scipy's and scikit-learn's on random and on degenerate inputs."""

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recipes.scores.numbers import mean_squared_error, pearson, spearman

THEIRS = {
    pearson: lambda truth, predicted: scipy.stats.pearsonr(truth, predicted).statistic,
    spearman: lambda truth, predicted: scipy.stats.spearmanr(truth, predicted).statistic,
    mean_squared_error: sklearn.metrics.mean_squared_error,
}
DEGENERATE = {
    "constant truth": ([2.5, 2.5, 2.5], [1, 2, 3]),
    "constant prediction": ([1, 2, 3], [0.1, 0.1, 0.1]),
    "both constant": ([1, 1], [2, 2]),
    "two examples": ([1, 2], [5, 4]),
    "ties": ([1, 1, 2, 2, 3], [3, 3, 3, 1, 1]),
    "equal arrays": ([0.1, 0.2, 0.7], [0.1, 0.2, 0.7]),
    "huge numbers": ([1e200, -1e200, 3e200], [1, 2, 5]),
    "tiny numbers": ([1e-200, -1e-200, 3e-200], [1, 2, 5]),
}
# Quarters: ties are frequent, and sums of them are exact
QUARTERS = st.integers(-40, 40).map(lambda value: value / 4)
PAIRS = st.integers(2, 30).flatmap(lambda size: st.tuples(*[arrays(np.float64, size, elements=QUARTERS)] * 2))


def check(ours, truth_N: np.ndarray, predicted_N: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about constant inputs
        expected = float(THEIRS[ours](truth_N, predicted_N))
    value = ours(truth_N, predicted_N)
    assert type(value) is float and value == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", THEIRS, ids=lambda metric: metric.__name__)
@settings(deadline=None)
@given(pair=PAIRS)
def test_metrics_equal_those_of_scipy_and_scikit_learn_within_1e_12(metric, pair) -> None:
    check(metric, *pair)


@pytest.mark.parametrize("metric", [pearson, spearman], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_inputs_give_what_scipy_gives(metric, name: str) -> None:
    check(metric, *(np.array(values, float) for values in DEGENERATE[name]))


@pytest.mark.parametrize("metric", [pearson, spearman], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan, 2.0]])
def test_correlations_of_fewer_than_two_numbers_or_of_nan_are_nan(metric, values: list[float]) -> None:
    values_N = np.array(values)
    assert np.isnan(metric(values_N, np.arange(len(values_N)))) and np.isnan(metric(np.arange(len(values_N)), values_N))


def test_spearman_ranks_infinity_and_pearson_of_it_is_nan() -> None:
    pair = np.array([1.0, np.inf, 2.0]), np.array([1.0, 3.0, 2.0])
    check(spearman, *pair)
    assert np.isnan(pearson(*pair))


def test_integers_and_half_precision_are_computed_in_float64() -> None:
    truth_N = np.array([0, 100_000, 300_000])
    assert mean_squared_error(truth_N, truth_N + 1) == 1
    assert mean_squared_error(np.array([0, 500], np.float16), np.array([500, 0], np.float16)) == 250_000


def test_an_error_of_no_examples_or_of_unequal_lengths_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="no examples"):
        mean_squared_error(np.array([]), np.array([]))
    with pytest.raises(AssertionError):
        pearson(np.array([1.0, 2.0]), np.array([1.0]))
