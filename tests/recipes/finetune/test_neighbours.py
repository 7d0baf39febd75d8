"""k-NN on features whose answer is known: separable classes, noise, a tie, and a choice between layers."""

import torch
from torch import Tensor

from recipes.finetune.neighbours import NEIGHBOURS, best_neighbours, vote
from recipes.finetune.ridge import Split

N, D, C = 200, 8, 4


def separable(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Classes at the corners of a simplex, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(C, (N,), generator=generator)
    return 50 + torch.eye(C, D)[labels_N] + spread * torch.randn(N, D, generator=generator), labels_N


def noise(seed: int) -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def test_a_separable_problem_is_recovered_although_all_cosines_are_near_one() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0, 0.05), separable(1, 0.05)
    score = best_neighbours(Split([train_ND], train_N), Split([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error) == (1.0, 0.0)


def test_noise_scores_chance() -> None:
    (_, train_N), (_, test_N) = separable(0, 1.0), separable(1, 1.0)
    score = best_neighbours(Split([noise(2)], train_N), Split([noise(3)], test_N), C)
    assert abs(score.accuracy - 1 / C) < 4 * (0.25 * 0.75 / N) ** 0.5


def test_the_informative_layer_is_chosen() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0, 0.2), separable(1, 0.2)
    score = best_neighbours(Split([noise(2), train_ND], train_N), Split([noise(3), test_ND], test_N), C)
    assert score.layer == 1 and score.penalty in NEIGHBOURS and score.accuracy > 0.9


def test_votes_are_the_majority_of_the_nearest_and_the_nearer_decides_a_tie() -> None:
    angles_N = torch.tensor([0.0, 0.2, 0.3, 0.4, 0.5, 3.0, 3.1, 3.2, 3.3, 3.4])
    known_ND = torch.stack([angles_N.cos(), angles_N.sin()], dim=1)
    known_ND = known_ND - known_ND.mean(0)
    labels_N = torch.tensor([1, 0, 0, 0, 0, 2, 2, 2, 2, 2])
    predicted = vote(known_ND, labels_N, known_ND[:1], 3)
    assert predicted[1].tolist() == [1], "itself"
    assert predicted[5].tolist() == [0], "four of five"
    two_of_each = vote(known_ND[:2], torch.tensor([1, 0]), known_ND[:1], 2)
    assert two_of_each[1].tolist() == [1] and max(two_of_each) <= 2
