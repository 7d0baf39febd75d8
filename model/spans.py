"""The expected share of positions that random spans of one length cover. Spans may overlap. Torch-free arithmetic; the masks themselves are
drawn in model/masking.py."""

import math
from collections import Counter
from collections.abc import Callable


def covered_share(num_positions: int, num_starts: int, num_spans: int, length: int) -> float:
    """Return the expected share of `num_positions` positions that `num_spans` spans of `length` cover. Their starts are drawn without
    replacement from the first `num_starts` positions.

    A position is not covered if no start that reaches it is drawn. If w of the n starts reach it and m are drawn, the probability is
    (n - m)/n x (n - m - 1)/(n - 1) x ..., with w factors.
    """
    num_reaching = (max(0, min(at + 1, num_starts) - max(0, at + 1 - length)) for at in range(num_positions))
    covered = 0.0
    for reaching, count in Counter(num_reaching).items():
        missed = math.prod(max(0, num_starts - num_spans - i) / (num_starts - i) for i in range(reaching))
        covered += count * (1 - missed)
    return covered / max(1, num_positions)


def mean_over_counts(mean: float, share: Callable[[int], float]) -> float:
    """Return the mean of share(floor(mean + U)) for U uniform in [0, 1): the two whole numbers next to `mean`, each with its
    probability."""
    fewest = math.floor(mean)
    return (1 - mean + fewest) * share(fewest) + (mean - fewest) * share(fewest + 1)
