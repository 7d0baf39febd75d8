"""What a probe found: an accuracy for each layer, of which validation chooses one, beside the same of the network at random
initialisation. Fits nothing.

Layers are counted from 1, the output of the first block; 0 would be its input, which is not probed.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """Accuracy on the test split, with what was chosen on validation."""

    accuracy: float
    standard_error: float
    layer: int
    penalty: float
    """Or what else was chosen, such as the number of neighbours."""
    by_layer: tuple[float, ...] = ()
    """Accuracy on the test split of layer 1, 2, ..., each with the penalty that was chosen for it."""


def best_layer(validated: list[tuple[float, float]], tested: list[float], num_test: int) -> Score:
    """The layer that validation chooses. `validated`: each layer's accuracy there, and the penalty that gave it; `tested`: on test."""
    (_, index), penalty = max(((share, index), penalty) for index, (share, penalty) in enumerate(validated))
    return Score(tested[index], standard_error(tested[index], num_test), index + 1, penalty, tuple(tested))


def standard_error(share: float, num_examples: int) -> float:
    """Of an accuracy, if examples are independent."""
    return (share * (1 - share) / num_examples) ** 0.5


def scores_to_json(trained: dict[str, Score], random: dict[str, Score]) -> dict[str, Any]:
    """For results.json; `mean` to `random_init_std` are those of the first probe."""
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
    """A line for each layer, for the terminal."""
    num_layers = len(next(iter(trained.values())).by_layer)
    return [
        f"  layer {index + 1:2}  "
        + ", ".join(f"{name} {trained[name].by_layer[index]:.3f} (random init {random[name].by_layer[index]:.3f})" for name in trained)
        for index in range(num_layers)
    ]
