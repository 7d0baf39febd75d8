"""Ridge on features with a known result: separable classes, noise, and a choice between layers."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recipes.errors import ConfigError
from recipes.finetune.neighbours import best_neighbours
from recipes.finetune.ridge import PENALTIES, LabelledFeatures, accuracy, best_ridge, fit, fit_targets, validation_cut

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
    score = best_ridge(LabelledFeatures([train_ND], train_N), LabelledFeatures([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error, score.layer) == (1.0, 0.0, 1)


def test_noise_scores_chance() -> None:
    (_, train_N), (_, test_N) = separable(0), separable(1)
    score = best_ridge(LabelledFeatures([noise(2)], train_N), LabelledFeatures([noise(3)], test_N), C)
    assert abs(score.accuracy - 1 / C) < 4 * (0.25 * 0.75 / N) ** 0.5
    assert score.standard_error == pytest.approx((score.accuracy * (1 - score.accuracy) / N) ** 0.5)


def test_the_informative_layer_is_chosen_without_looking_at_the_test_split() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0), separable(1)
    score = best_ridge(
        LabelledFeatures([noise(2), train_ND, noise(4)], train_N), LabelledFeatures([noise(3), test_ND, noise(5)], test_N), C
    )
    assert score.layer == 2 and score.accuracy == score.by_layer[1] > 0.6 and score.penalty in PENALTIES
    misled = best_ridge(LabelledFeatures([train_ND, noise(2)], train_N), LabelledFeatures([noise(3), test_ND], test_N), C)
    assert misled.layer == 1, "chosen on the training split's held-back part"


def test_the_penalty_is_chosen_on_examples_that_were_not_fitted() -> None:
    """There are more features than examples, and a fifth of the labels is wrong. With a small penalty the fit reproduces every label, also
    the wrong ones. A large penalty predicts more of the other examples."""
    generator = torch.Generator().manual_seed(7)
    labels_N, wrong_N = torch.randint(2, (300,), generator=generator), torch.rand(150, generator=generator) < 0.2
    features_ND = torch.randn(300, 200, generator=generator)
    features_ND[:, 0] += 8 * labels_N
    known, unknown = (features_ND[:150], labels_N[:150] ^ wrong_N), (features_ND[150:], labels_N[150:])
    assert accuracy(fit(known[0], one_hot(known[1], 2).double(), PENALTIES[0]), *known) == 1.0 and validation_cut(150) == 120
    score = best_ridge(LabelledFeatures([known[0]], known[1]), LabelledFeatures([unknown[0]], unknown[1]), 2)
    first, chosen = (accuracy(fit(known[0], one_hot(known[1], 2).double(), penalty), *unknown) for penalty in (PENALTIES[0], score.penalty))
    assert first < 0.8 < 0.9 < chosen == score.accuracy, "the score is that of the chosen penalty"


def test_the_test_split_is_scored_after_a_refit_on_all_of_train_and_its_size_gives_the_standard_error() -> None:
    """One class is only in the fifth of train on which layer and penalty are chosen. Half of the test examples are of this class. The
    others have features of this class and another label, so they are wrong."""
    train_N = torch.arange(N) // (N * 4 // 5) * 3
    train_ND = 50 + torch.eye(C, D)[train_N] + 0.05 * noise(0)
    test_N = torch.tensor([3, 1] * 20)
    test_ND = 50 + torch.eye(C, D)[3] + 0.05 * noise(1)[:40]
    score = best_ridge(LabelledFeatures([train_ND], train_N), LabelledFeatures([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error) == (0.5, (0.25 / 40) ** 0.5)


def test_the_penalty_is_relative_to_the_features_variance() -> None:
    features_ND, labels_N = separable(0)
    weights_DC, _ = fit(features_ND, one_hot(labels_N, C).double(), 0.1)
    longer_DC, _ = fit(64 * features_ND, one_hot(labels_N, C).double(), 0.1)
    torch.testing.assert_close(64 * longer_DC, weights_DC)


def test_a_large_penalty_leaves_the_most_frequent_class() -> None:
    features_ND, labels_N = separable(0)
    labels_N[: N // 2] = 2
    weights_DC, bias_C = fit(features_ND, one_hot(labels_N, C).double(), 1e9)
    assert weights_DC.abs().max() < 1e-6 and int(bias_C.argmax()) == 2


def test_without_penalty_it_is_least_squares() -> None:
    features_ND, labels_N = separable(0)
    weights_DC, bias_C = fit(features_ND, one_hot(labels_N, C).double(), 0.0)
    design = torch.cat([features_ND.double(), torch.ones(N, 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, torch.nn.functional.one_hot(labels_N, C).double()).solution
    torch.testing.assert_close(torch.cat([weights_DC, bias_C[None]]), solution, rtol=1e-6, atol=1e-8)


def test_a_class_that_never_occurs_is_never_predicted() -> None:
    features_ND, labels_N = separable(0)
    weights = fit(features_ND, one_hot(labels_N.clamp(max=1), C).double(), 1e-3)
    assert accuracy(weights, features_ND, torch.full((N,), 3)) == 0.0


def test_a_collapsed_network_predicts_the_most_frequent_class() -> None:
    labels_N = torch.arange(N) % 3 % 2
    same = LabelledFeatures([torch.full((N, D), 0.7)], labels_N)
    assert best_ridge(same, same, 2).accuracy == best_neighbours(same, same, 2).accuracy == float((labels_N == 0).double().mean())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_with_their_layer(value: float) -> None:
    broken_ND = noise(0)
    broken_ND[3, 2] = value
    with pytest.raises(ConfigError, match="layer 2: its features are not finite, so the run has diverged; probe an older checkpoint"):
        LabelledFeatures([noise(1), broken_ND], torch.zeros(N))


def test_vectors_that_follow_linearly_are_explained_whole_and_others_not_at_all() -> None:
    train_ND, test_ND, matrix_DT = noise(0), noise(1), torch.randn(D, 5, generator=torch.Generator().manual_seed(2))
    (validated, _), explained = fit_targets((train_ND, train_ND @ matrix_DT + 3), (test_ND, test_ND @ matrix_DT + 3))
    assert min(validated, explained) > 1 - 1e-5
    _, unexplained = fit_targets((train_ND, noise(3)), (test_ND, noise(4)))
    assert -0.2 < unexplained < 0.02


def test_half_of_the_variance_is_explained_if_half_of_the_channels_follow() -> None:
    train_ND, test_ND = noise(0), noise(1)
    train_NT, test_NT = (torch.cat([x_ND[:, :4], noise(seed)[:, :4]], 1) for x_ND, seed in ((train_ND, 2), (test_ND, 3)))
    assert fit_targets((train_ND, train_NT), (test_ND, test_NT))[1] == pytest.approx(0.5, abs=0.06)
