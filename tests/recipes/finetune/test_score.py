"""Scores of several layers: which layer is chosen, how layers are counted, and what is stored and printed."""

from recipes.finetune.score import Score, best_layer, layer_lines, scores_to_json


def test_validation_chooses_the_layer_and_its_number_counts_from_one() -> None:
    score = best_layer([(0.5, 0.1), (0.7, 1.0), (0.6, 10.0)], [0.9, 0.5, 0.8], 25)
    assert score == Score(0.5, 0.1, 2, 1.0, (0.9, 0.5, 0.8))


def test_the_last_of_equal_layers_is_chosen() -> None:
    assert best_layer([(0.7, 1.0), (0.7, 0.1), (0.6, 10.0)], [0.1, 0.2, 0.3], 25).layer == 2


TRAINED = {"linear": Score(0.8, 0.01, 2, 0.1, (0.6, 0.8)), "knn": Score(0.7, 0.02, 1, 10.0, (0.7, 0.5))}
RANDOM = {"linear": Score(0.4, 0.03, 1, 1.0, (0.4, 0.3)), "knn": Score(0.3, 0.04, 2, 5.0, (0.2, 0.3))}


def test_the_first_classifier_gives_the_mean_and_all_give_their_layers() -> None:
    assert scores_to_json(TRAINED, RANDOM) == {
        **{"metric": "accuracy", "mean": 0.8, "std": 0.01, "values": [0.8], "layer": 2, "random_init": 0.4, "random_init_std": 0.03},
        "by_layer": {"linear": [0.6, 0.8], "knn": [0.7, 0.5]},
        "random_init_by_layer": {"linear": [0.4, 0.3], "knn": [0.2, 0.3]},
    }


def test_each_layer_has_a_line_with_its_number() -> None:
    assert layer_lines(TRAINED, RANDOM) == [
        "  layer  1  linear 0.600 (random init 0.400), knn 0.700 (random init 0.200)",
        "  layer  2  linear 0.800 (random init 0.300), knn 0.500 (random init 0.300)",
    ]
