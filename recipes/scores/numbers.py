"""Metrics of predicted numbers: Pearson's and Spearman's correlation and the mean squared error. Only numpy, in float64.

Shape letter: N examples.
"""

import numpy as np


def pearson(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return Pearson's correlation, between -1 and 1. nan if one of the arrays is constant, has a nan or infinity, or has fewer than 2
    numbers."""
    truth_N, predicted_N = _as_numbers(truth_N, predicted_N)
    if len(truth_N) < 2 or not np.isfinite([truth_N, predicted_N]).all() or np.ptp(truth_N) == 0 or np.ptp(predicted_N) == 0:
        return float("nan")
    return float(np.clip(np.dot(_unit(truth_N), _unit(predicted_N)), -1, 1))  # rounding may exceed 1


def spearman(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return Spearman's correlation: Pearson's correlation of the ranks, where equal numbers share the mean of their ranks. nan if one of
    the arrays is constant, has a nan, or has fewer than 2 numbers."""
    truth_N, predicted_N = _as_numbers(truth_N, predicted_N)
    if np.isnan([truth_N, predicted_N]).any():
        return float("nan")
    return pearson(_ranks(truth_N), _ranks(predicted_N))


def mean_squared_error(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the mean of the squared differences."""
    truth_N, predicted_N = _as_numbers(truth_N, predicted_N)
    assert len(truth_N) > 0, "a metric of no examples"
    return float(np.mean((truth_N - predicted_N) ** 2))


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """Return the rank of each number, from 1. Equal numbers share the mean of their ranks."""
    _, inverse_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse_N]


def _unit(values_N: np.ndarray) -> np.ndarray:
    """Return the differences from the mean, scaled to length 1. The scale is divided out first, so that no square overflows or
    vanishes."""
    centred_N = values_N - np.mean(values_N)
    centred_N = centred_N / np.max(np.abs(centred_N))
    return centred_N / np.linalg.norm(centred_N)


def _as_numbers(truth_N: np.ndarray, predicted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert truth_N.ndim == 1 and truth_N.shape == predicted_N.shape, (truth_N.shape, predicted_N.shape)
    return np.asarray(truth_N, np.float64), np.asarray(predicted_N, np.float64)
