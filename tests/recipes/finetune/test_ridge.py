"""Ridge on features whose answer is known: separable classes, noise, and a choice between layers."""

import pytest
import torch
from torch import Tensor

from recipes.finetune.ridge import PENALTIES, Split, accuracy, best_ridge, fit

N, D, C = 400, 8, 4


def separable(seed: int, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """Classes at the corners of a simplex, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(C, (N,), generator=generator)
    return 50 + torch.eye(C, D)[labels_N] + spread * torch.randn(N, D, generator=generator), labels_N


def noise(seed: int) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def test_a_separable_problem_is_recovered() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0, 0.05), separable(1, 0.05)
    score = best_ridge(Split([train_ND], train_N), Split([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error, score.layer) == (1.0, 0.0, 0)


def test_noise_scores_chance() -> None:
    (_, train_N), (_, test_N) = separable(0), separable(1)
    score = best_ridge(Split([noise(2)], train_N), Split([noise(3)], test_N), C)
    assert abs(score.accuracy - 1 / C) < 4 * (0.25 * 0.75 / N) ** 0.5
    assert score.standard_error == pytest.approx((score.accuracy * (1 - score.accuracy) / N) ** 0.5)


def test_the_informative_layer_is_chosen_without_looking_at_the_test_split() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0), separable(1)
    score = best_ridge(Split([noise(2), train_ND, noise(4)], train_N), Split([noise(3), test_ND, noise(5)], test_N), C)
    assert score.layer == 1 and score.accuracy > 0.6 and score.penalty in PENALTIES
    misled = best_ridge(Split([train_ND, noise(2)], train_N), Split([noise(3), test_ND], test_N), C)
    assert misled.layer == 0, "chosen on the training split's held-back part"


def test_a_large_penalty_leaves_the_most_frequent_class() -> None:
    features_ND, labels_N = separable(0)
    labels_N[: N // 2] = 2
    weights_DC, bias_C = fit(features_ND, labels_N, C, 1e9)
    assert weights_DC.abs().max() < 1e-6 and int(bias_C.argmax()) == 2


def test_without_penalty_it_is_least_squares() -> None:
    features_ND, labels_N = separable(0)
    weights_DC, bias_C = fit(features_ND, labels_N, C, 0.0)
    design = torch.cat([features_ND.double(), torch.ones(N, 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, torch.nn.functional.one_hot(labels_N, C).double()).solution
    torch.testing.assert_close(torch.cat([weights_DC, bias_C[None]]), solution, rtol=1e-6, atol=1e-8)


def test_a_class_that_never_occurs_is_never_said() -> None:
    features_ND, labels_N = separable(0)
    weights = fit(features_ND, labels_N.clamp(max=1), C, 1e-3)
    assert accuracy(weights, features_ND, torch.full((N,), 3)) == 0.0
