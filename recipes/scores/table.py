"""The metrics of classes and of numbers by their names. Transcripts have sums and not one function: recipes/scores/transcripts.py."""

from collections.abc import Callable

import numpy as np

from recipes.scores.classes import accuracy, f1, macro_f1, matthews
from recipes.scores.numbers import mean_squared_error, pearson, spearman

Metric = Callable[[np.ndarray, np.ndarray], float]
"""(truth, prediction) -> value, both of shape (N,)."""


def acc_and_f1(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the mean of accuracy and F1, which GLUE reports for MRPC and QQP."""
    return (accuracy(truth_N, predicted_N) + f1(truth_N, predicted_N)) / 2


def pearson_and_spearman(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the mean of both correlations, which GLUE reports for STS-B. nan if one of them is nan."""
    return (pearson(truth_N, predicted_N) + spearman(truth_N, predicted_N)) / 2


CLASS_METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "acc_and_f1": acc_and_f1,
}
"""Name -> metric of predicted classes."""

NUMBER_METRICS: dict[str, Metric] = {
    "pearson": pearson,
    "spearman": spearman,
    "pearson_and_spearman": pearson_and_spearman,
    "mse": mean_squared_error,
}
"""Name -> metric of predicted numbers."""
