"""Metrics of predicted classes: accuracy, F1, macro F1 and the Matthews correlation. Only numpy. Sums over ranks and files are left to the
callers.

Shape letters: N examples, C classes. A class is an integer from 0.
"""

import numpy as np


def accuracy(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the share of examples whose predicted class is the true one."""
    _check(truth_N, predicted_N)
    return float(np.mean(truth_N == predicted_N))


def f1(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the F1 of class 1, the harmonic mean of its precision and recall. Every other class counts as negative. 0 if class 1 is
    neither true nor predicted anywhere."""
    _check(truth_N, predicted_N)
    return _f1_of(1, truth_N, predicted_N)


def macro_f1(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the mean of the F1 of each class that occurs in the truth or in the prediction."""
    _check(truth_N, predicted_N)
    classes = np.union1d(truth_N, predicted_N)
    return float(np.mean([_f1_of(one, truth_N, predicted_N) for one in classes]))


def matthews(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the Matthews correlation of two or more classes, between -1 and 1. 0 if the truth or the prediction has one class only.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    """
    _check(truth_N, predicted_N)
    classes = np.union1d(truth_N, predicted_N)
    # Python's integers, because the products below exceed 64 bits from about 60,000 examples on.
    true_counts = [int(np.sum(truth_N == one)) for one in classes]
    predicted_counts = [int(np.sum(predicted_N == one)) for one in classes]
    num_correct, num_examples = int(np.sum(truth_N == predicted_N)), len(truth_N)
    covariance = num_correct * num_examples - sum(a * b for a, b in zip(true_counts, predicted_counts, strict=True))
    variances = [num_examples**2 - sum(count**2 for count in counts) for counts in (true_counts, predicted_counts)]
    product = variances[0] * variances[1]
    return covariance / product**0.5 if product else 0.0


def _f1_of(positive: int, truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    num_both = np.sum((truth_N == positive) & (predicted_N == positive))
    total = np.sum(truth_N == positive) + np.sum(predicted_N == positive)
    return float(2 * num_both / total) if total else 0.0


def _check(truth_N: np.ndarray, predicted_N: np.ndarray) -> None:
    assert truth_N.ndim == 1 and truth_N.shape == predicted_N.shape, (truth_N.shape, predicted_N.shape)
    assert len(truth_N) > 0, "a metric of no examples"
