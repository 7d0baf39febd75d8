"""Ridge regression of classes, or of vectors, on frozen features, in closed form. Penalty and layer are chosen on a held-back part. The
same for all modalities.

Shapes: N examples, D features, C classes, T channels of a vector.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recipes.errors import ConfigError
from recipes.finetune.score import Score, best_layer

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # multiples of the features' mean variance
VALIDATION_SHARE = 0.2
TINY = 1e-30
"""Lower bound of the variance. A collapsed network has the same features for all examples; the most frequent class is then predicted."""


LayerExamples = tuple[Tensor, Tensor]
"""Features (N, D), and what is predicted from them: class numbers (N,) or vectors (N, T)."""
Weights = tuple[Tensor, Tensor]
"""The matrix (D, C) and the bias (C,)."""
Scorer = Callable[[Weights, Tensor, Tensor], float]
LayerResult = tuple[tuple[float, float], float]
"""(score on validation data, the penalty with that score), score on test data."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of some examples, one tensor (N, D) per layer, and the class numbers of the same examples."""

    layers: list[Tensor]
    labels_N: Tensor

    def __post_init__(self) -> None:
        """Check the features. Raises: ConfigError if they contain NaN or infinity."""
        for number, features_ND in enumerate(self.layers, start=1):
            if not features_ND.isfinite().all():
                raise ConfigError(f"layer {number}: its features are not finite, so the run has diverged; probe an older checkpoint")


def best_ridge(train: LabelledFeatures, test: LabelledFeatures, num_classes: int) -> Score:
    """Return the accuracy of ridge classification on `test`. Every layer and penalty is fitted on the first 80 % of `train`, the best ones
    are chosen on the other 20 %, and these are fitted again on all of `train`."""
    validated, tested = [], []
    for features_ND, test_ND in zip(train.layers, test.layers, strict=True):
        chosen, share = fit_layer((features_ND, train.labels_N), (test_ND, test.labels_N), num_classes)
        validated.append(chosen)
        tested.append(share)
    return best_layer(validated, tested, len(test.labels_N))


def fit_layer(train: LayerExamples, test: LayerExamples, num_classes: int) -> LayerResult:
    """Fit classes to one layer. Return ((its validation accuracy, the penalty with that accuracy), its accuracy on `test`). `train`,
    `test`: features (N, D) and class numbers (N,)."""
    return _fit_layer(train, test, lambda labels_N: one_hot(labels_N, num_classes).double(), accuracy)


def fit_targets(train: LayerExamples, test: LayerExamples) -> LayerResult:
    """Fit vectors to one layer, and return as fit_layer() the explained variance in place of the accuracy. `train`, `test`: features (N, D)
    and vectors (N, T)."""
    return _fit_layer(train, test, Tensor.double, explained_variance)


def _fit_layer(train: LayerExamples, test: LayerExamples, targets: Callable[[Tensor], Tensor], score: Scorer) -> LayerResult:
    (features_ND, labels_N), (test_ND, test_labels_N) = train, test
    cut, choices = validation_cut(len(labels_N)), []
    for penalty in PENALTIES:
        weights = fit(features_ND[:cut], targets(labels_N[:cut]), penalty)
        choices.append((score(weights, features_ND[cut:], labels_N[cut:]), penalty))
    chosen = max(choices)
    weights = fit(features_ND, targets(labels_N), chosen[1])
    return chosen, score(weights, test_ND, test_labels_N)


def validation_cut(num_examples: int) -> int:
    """Return 80 % of num_examples, rounded down. While layer and penalty are chosen, this many examples, the first ones, are fitted; the
    rest are for validation."""
    return int(num_examples * (1 - VALIDATION_SHARE))


def fit(features_ND: Tensor, y_NC: Tensor, penalty: float) -> Weights:
    """Return weights (D, C) and bias (C,) of ridge regression onto y, such as one-hot labels, with centred features, in float64.
    `penalty`: a multiple of the sum of squares that a feature has on average."""
    x_ND = features_ND.double()
    mean_D, share_C = x_ND.mean(0), y_NC.mean(0)
    x_ND = x_ND - mean_D
    gram_DD = x_ND.T @ x_ND
    gram_DD.diagonal().add_(penalty * gram_DD.diagonal().mean().clamp_min(TINY))
    weights_DC = torch.linalg.solve(gram_DD, x_ND.T @ (y_NC - share_C))
    return weights_DC, share_C - mean_D @ weights_DC


def accuracy(weights: Weights, features_ND: Tensor, labels_N: Tensor) -> float:
    """Return the share of examples for which the true class has the highest score. `weights`: a pair, the weight matrix (D, C) and the
    bias (C,)."""
    weights_DC, bias_C = weights
    return float(((features_ND.double() @ weights_DC + bias_C).argmax(1) == labels_N).double().mean())


def explained_variance(weights: Weights, features_ND: Tensor, targets_NT: Tensor) -> float:
    """Return the share of the targets' variance that the prediction explains, summed over their channels. `weights`: as for accuracy().
    Below 0 if it is worse than the mean."""
    weights_DT, bias_T = weights
    targets_NT = targets_NT.double()
    rest = (features_ND.double() @ weights_DT + bias_T - targets_NT).square().sum()
    total = (targets_NT - targets_NT.mean(0)).square().sum()
    return float(1 - rest / total.clamp_min(TINY))
