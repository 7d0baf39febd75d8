"""The tables hold every metric by its name; the means of two are what GLUE reports."""

import math

import numpy as np
import pytest

from recipes.scores.table import CLASS_METRICS, NUMBER_METRICS, acc_and_f1, pearson_and_spearman


def test_the_tables_hold_these_names() -> None:
    assert list(CLASS_METRICS) == ["accuracy", "f1", "macro_f1", "matthews", "acc_and_f1"]
    assert list(NUMBER_METRICS) == ["pearson", "spearman", "pearson_and_spearman", "mse"]


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_a_perfect_prediction_of_classes_scores_1(name: str) -> None:
    assert CLASS_METRICS[name](np.array([0, 1, 1]), np.array([0, 1, 1])) == 1


@pytest.mark.parametrize("name", NUMBER_METRICS)
def test_a_perfect_prediction_of_numbers_scores_1_and_its_error_is_0(name: str) -> None:
    assert NUMBER_METRICS[name](np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 3.0])) == pytest.approx(0 if name == "mse" else 1)


def test_the_means_of_two_metrics_are_their_means() -> None:
    truth_N, predicted_N = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])
    assert acc_and_f1(truth_N, predicted_N) == pytest.approx((3 / 4 + 2 / 3) / 2)
    # Ranks are in order, so that Spearman's correlation is 1; Pearson's is 3 / sqrt(28/3)
    assert pearson_and_spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])) == pytest.approx((1 + 3 / math.sqrt(28 / 3)) / 2)


def test_a_constant_prediction_of_numbers_has_no_correlation() -> None:
    assert math.isnan(pearson_and_spearman(np.array([1.0, 2.0]), np.array([3.0, 3.0])))
