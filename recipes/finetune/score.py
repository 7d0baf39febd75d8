"""Scores of a probe: the test accuracy of each layer, and the layer that has the best validation accuracy. Also formats these scores for
results.json and the terminal. Fits nothing.

Layers count from 1, the output of the first block. 0 would be its input, which is not probed.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """Accuracy of a classifier on the test split, with the layer and penalty that were chosen on validation data."""

    accuracy: float
    standard_error: float
    layer: int
    penalty: float
    """The penalty, or for k-NN the number of neighbours."""
    by_layer: tuple[float, ...] = ()
    """Accuracy on the test split for layers 1, 2, ..., each with the penalty that was chosen for this layer."""


def best_layer(validated: list[tuple[float, float]], tested: list[float], num_test: int) -> Score:
    """Return the score of the layer with the best validation accuracy, in a tie the last such layer. `validated`: for each layer its
    validation accuracy and the penalty chosen for it. `tested`: the test accuracy of each layer."""
    (_, index), penalty = max(((share, index), penalty) for index, (share, penalty) in enumerate(validated))
    return Score(tested[index], standard_error(tested[index], num_test), index + 1, penalty, tuple(tested))


def standard_error(share: float, num_examples: int) -> float:
    """Return the standard error of an accuracy (`share` of num_examples), if the examples are independent."""
    return (share * (1 - share) / num_examples) ** 0.5


def scores_to_json(trained: dict[str, Score], random: dict[str, Score]) -> dict[str, Any]:
    """Return the fields for results.json. `trained`, `random`: classifier name -> score on the pre-trained or on the random network. The
    fields `by_layer` and `random_init_by_layer` have every classifier; all other fields are of the first classifier in `trained`."""
    name = next(iter(trained))
    return {
        "metric": "accuracy",
        "mean": trained[name].accuracy,
        "std": trained[name].standard_error,
        "values": [trained[name].accuracy],
        "layer": trained[name].layer,
        "random_init": random[name].accuracy,
        "random_init_std": random[name].standard_error,
        "by_layer": {name: list(score.by_layer) for name, score in trained.items()},
        "random_init_by_layer": {name: list(score.by_layer) for name, score in random.items()},
    }


def layer_lines(trained: dict[str, Score], random: dict[str, Score]) -> list[str]:
    """Return one line per layer for the terminal: the test accuracy of each classifier on the pre-trained and on the random network."""
    num_layers = len(next(iter(trained.values())).by_layer)
    return [
        f"  layer {index + 1:2}  "
        + ", ".join(f"{name} {trained[name].by_layer[index]:.3f} (random init {random[name].by_layer[index]:.3f})" for name in trained)
        for index in range(num_layers)
    ]
