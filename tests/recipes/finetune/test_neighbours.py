"""k-NN on features with a known result: separable classes, noise, wrong labels, a tie, and a choice between layers and between k."""

import torch
from torch import Tensor

from recipes.finetune.neighbours import NEIGHBOURS, best_neighbours, vote
from recipes.finetune.ridge import LabelledFeatures

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
    score = best_neighbours(LabelledFeatures([train_ND], train_N), LabelledFeatures([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error) == (1.0, 0.0)


def test_noise_scores_chance() -> None:
    (_, train_N), (_, test_N) = separable(0, 1.0), separable(1, 1.0)
    score = best_neighbours(LabelledFeatures([noise(2)], train_N), LabelledFeatures([noise(3)], test_N), C)
    assert abs(score.accuracy - 1 / C) < 4 * (0.25 * 0.75 / N) ** 0.5


def test_the_informative_layer_is_chosen_without_looking_at_the_test_split() -> None:
    (train_ND, train_N), (test_ND, test_N) = separable(0, 0.2), separable(1, 0.2)
    score = best_neighbours(
        LabelledFeatures([noise(2), train_ND, noise(4)], train_N), LabelledFeatures([noise(3), test_ND, noise(5)], test_N), C
    )
    assert score.layer == 2 and score.penalty in NEIGHBOURS and score.accuracy == score.by_layer[1] > 0.9
    misled = best_neighbours(LabelledFeatures([train_ND, noise(2)], train_N), LabelledFeatures([noise(3), test_ND], test_N), C)
    assert misled.layer == 1 and misled.accuracy < 0.5, "chosen on the training split's held-back part"


def test_k_is_chosen_on_examples_that_are_not_among_the_neighbours() -> None:
    """A third of the training labels is wrong. The nearest neighbour is right in two thirds of the cases, the majority of 20 nearly always.
    If an example is among the neighbours, it is its own nearest one and always right."""
    (train_ND, train_N), (test_ND, test_N) = separable(0, 0.2), separable(1, 0.2)
    wrong_N = torch.rand(N, generator=torch.Generator().manual_seed(6)) < 1 / 3
    given_N = torch.where(wrong_N, (train_N + 1) % C, train_N)
    score = best_neighbours(LabelledFeatures([train_ND], given_N), LabelledFeatures([test_ND], test_N), C)
    assert score.penalty >= 10 and score.accuracy > 0.9
    one = vote(train_ND, given_N, test_ND, C)[1]
    assert float((one == test_N).double().mean()) < 0.8, "the score with the first k"


def test_all_of_train_are_neighbours_of_the_test_split_whose_size_gives_the_standard_error() -> None:
    """One class is only in the fifth of train on which k is chosen. Half of the test examples are of this class. The others have features
    of this class and another label, so they are wrong."""
    train_N = torch.arange(N) // (N * 4 // 5) * 3
    train_ND = 50 + torch.eye(C, D)[train_N] + 0.05 * noise(0)
    test_N = torch.tensor([3, 1] * 20)
    test_ND = 50 + torch.eye(C, D)[3] + 0.05 * noise(1)[:40]
    score = best_neighbours(LabelledFeatures([train_ND], train_N), LabelledFeatures([test_ND], test_N), C)
    assert (score.accuracy, score.standard_error) == (0.5, (0.25 / 40) ** 0.5)


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


def test_queries_are_centred_on_the_known_features_mean_and_lengths_do_not_count() -> None:
    known_ND = torch.tensor([[90.0, 10.0], [0.0, 0.5], [-90.0, -10.5]])
    queries_QD = torch.tensor(
        [[0.1, 0.4], [5.0, 21.0]]
    )  # in direction both are nearer to the second vector, which is short, than to the first, which is long
    assert vote(known_ND, torch.arange(3), queries_QD, 3)[1].tolist() == [1, 1]
    alone = [vote(known_ND, torch.arange(3), query_D[None], 3)[1].tolist() for query_D in queries_QD]
    assert alone == [[1], [1]], "independent of the other queries"
