"""Metrics of classes equal scikit-learn's on random and on degenerate inputs."""

import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recipes.scores.classes import accuracy, f1, macro_f1, matthews

METRICS = {
    accuracy: sk.accuracy_score,
    macro_f1: lambda truth, predicted: sk.f1_score(truth, predicted, average="macro", zero_division=0),
    matthews: sk.matthews_corrcoef,
}
DEGENERATE = {
    "one class, all right": ([1, 1, 1], [1, 1, 1]),
    "one class, all wrong": ([0, 0, 0], [1, 1, 1]),
    "constant prediction": ([0, 1, 2, 1], [1, 1, 1, 1]),
    "constant truth": ([1, 1, 1, 1], [0, 1, 2, 1]),
    "class 1 nowhere": ([0, 0, 2], [0, 2, 2]),
    "class that is predicted only": ([0, 1, 0], [0, 7, 0]),
    "one example": ([3], [3]),
}


def pairs_of_classes(num_classes: int) -> st.SearchStrategy:
    one = st.integers(0, num_classes - 1)
    return st.integers(1, 30).flatmap(lambda size: st.tuples(arrays(np.int64, size, elements=one), arrays(np.int64, size, elements=one)))


def check(ours, theirs, truth_N: np.ndarray, predicted_N: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about a single label
        expected = float(theirs(truth_N, predicted_N))
    value = ours(truth_N, predicted_N)
    assert type(value) is float and value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@settings(deadline=None)
@given(pair=st.integers(1, 6).flatmap(pairs_of_classes))
def test_metrics_equal_those_of_scikit_learn_within_1e_12(metric, pair) -> None:
    check(metric, METRICS[metric], *pair)


@settings(deadline=None)
@given(pair=pairs_of_classes(2))
def test_f1_equals_that_of_scikit_learn_within_1e_12(pair) -> None:
    check(f1, lambda truth, predicted: sk.f1_score(truth, predicted, average="binary", zero_division=0), *pair)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_inputs_give_what_scikit_learn_gives(name: str) -> None:
    truth_N, predicted_N = map(np.array, DEGENERATE[name])
    for ours, theirs in METRICS.items():
        check(ours, theirs, truth_N, predicted_N)
    # scikit-learn refuses three classes for a binary F1; class 1 against the rest is the same thing
    check(f1, lambda t, p: sk.f1_score(t == 1, p == 1, average="binary", zero_division=0), truth_N, predicted_N)


def test_matthews_does_not_overflow_with_a_million_examples() -> None:
    rng = np.random.default_rng(0)
    truth_N = rng.integers(0, 3, 1_000_000)
    predicted_N = np.where(rng.random(len(truth_N)) < 0.7, truth_N, rng.integers(0, 3, len(truth_N)))
    assert matthews(truth_N, predicted_N) == pytest.approx(sk.matthews_corrcoef(truth_N, predicted_N), abs=1e-9)


@pytest.mark.parametrize("metric", [accuracy, f1, macro_f1, matthews], ids=lambda metric: metric.__name__)
def test_no_examples_and_unequal_lengths_are_defects(metric) -> None:
    with pytest.raises(AssertionError, match="no examples"):
        metric(np.array([], int), np.array([], int))
    with pytest.raises(AssertionError):
        metric(np.array([1]), np.array([1, 0]))
