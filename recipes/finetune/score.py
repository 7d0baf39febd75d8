"""Scores of a probe: an accuracy per layer, the layer that validation chooses, and the same for the network at random initialisation. Fits
nothing.

Layers count from 1, the output of the first block. 0 would be its input, which is not probed.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """Accuracy on the test split, and the layer and penalty that were chosen on validation data."""

    accuracy: float
    standard_error: float
    layer: int
    penalty: float
    """The penalty, or for k-NN the number of neighbours."""
    by_layer: tuple[float, ...] = ()
    """Accuracy on the test split for layers 1, 2, ..., each with the penalty that was chosen for this layer."""


def best_layer(validated: list[tuple[float, float]], tested: list[float], num_test: int) -> Score:
    """Return the score of the layer with the best validation accuracy. `validated`: validation accuracy and its penalty, per layer.
    `tested`: test accuracy per layer."""
    (_, index), penalty = max(((share, index), penalty) for index, (share, penalty) in enumerate(validated))
    return Score(tested[index], standard_error(tested[index], num_test), index + 1, penalty, tuple(tested))


def standard_error(share: float, num_examples: int) -> float:
    """Return the standard error of an accuracy, if the examples are independent."""
    return (share * (1 - share) / num_examples) ** 0.5


def scores_to_json(trained: dict[str, Score], random: dict[str, Score]) -> dict[str, Any]:
    """Return the fields for results.json. `mean` to `random_init_std` are those of the first classifier."""
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
    """Return one line per layer, for the terminal."""
    num_layers = len(next(iter(trained.values())).by_layer)
    return [
        f"  layer {index + 1:2}  "
        + ", ".join(f"{name} {trained[name].by_layer[index]:.3f} (random init {random[name].by_layer[index]:.3f})" for name in trained)
        for index in range(num_layers)
    ]
