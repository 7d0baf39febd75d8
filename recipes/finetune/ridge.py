"""Ridge classification on frozen features, in closed form. Penalty and layer are chosen on a held-back part. The same for all modalities.

Shapes: N examples, D features, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.errors import ConfigError
from recipes.finetune.score import Score, best_layer

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # multiples of the features' mean variance
VALIDATION_SHARE = 0.2
TINY = 1e-30
"""Lower bound of the variance. A collapsed network has the same features for all examples; the most frequent class is then predicted."""


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


def fit_layer(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int) -> tuple[tuple[float, float], float]:
    """Fit one layer. Return ((its validation accuracy, the penalty with that accuracy), its accuracy on `test`). `train`, `test`: features
    (N, D) and class numbers (N,)."""
    (features_ND, labels_N), (test_ND, test_labels_N) = train, test
    cut, choices = validation_cut(len(labels_N)), []
    for penalty in PENALTIES:
        weights = fit(features_ND[:cut], labels_N[:cut], num_classes, penalty)
        choices.append((accuracy(weights, features_ND[cut:], labels_N[cut:]), penalty))
    chosen = max(choices)
    weights = fit(features_ND, labels_N, num_classes, chosen[1])
    return chosen, accuracy(weights, test_ND, test_labels_N)


def validation_cut(num_examples: int) -> int:
    """Return 80 % of num_examples, rounded down. While layer and penalty are chosen, this many examples, the first ones, are fitted; the
    rest are for validation."""
    return int(num_examples * (1 - VALIDATION_SHARE))


def fit(features_ND: Tensor, labels_N: Tensor, num_classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights (D, C) and bias (C,) of ridge regression onto one-hot labels, with centred features, in float64. `penalty`: a multiple
    of the sum of squares that a feature has on average."""
    x_ND = features_ND.double()
    y_NC = torch.nn.functional.one_hot(labels_N, num_classes).double()
    mean_D, share_C = x_ND.mean(0), y_NC.mean(0)
    x_ND = x_ND - mean_D
    gram_DD = x_ND.T @ x_ND
    gram_DD.diagonal().add_(penalty * gram_DD.diagonal().mean().clamp_min(TINY))
    weights_DC = torch.linalg.solve(gram_DD, x_ND.T @ (y_NC - share_C))
    return weights_DC, share_C - mean_D @ weights_DC


def accuracy(weights: tuple[Tensor, Tensor], features_ND: Tensor, labels_N: Tensor) -> float:
    """Return the share of examples for which the true class has the highest score. `weights`: a pair, the weight matrix (D, C) and the
    bias (C,)."""
    weights_DC, bias_C = weights
    return float(((features_ND.double() @ weights_DC + bias_C).argmax(1) == labels_N).double().mean())
