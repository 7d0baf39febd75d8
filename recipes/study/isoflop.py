"""IsoFLOP minima: at a fixed budget, the size with the least error, and how it grows with the budget. numpy.

Source: Hoffmann et al. 2022 (arXiv 2203.15556, section 3.2, approach 2): a parabola in the logarithm of the size for each budget.

Shapes: N runs, K budgets, B repetitions.
"""

from typing import NamedTuple

import numpy as np

from recipes.study.bootstrap import REPETITIONS, Blocks, Estimate, interval
from recipes.study.law import Array
from recipes.study.wording import within

FEWEST_SIZES = 4
"""Sizes of a budget. A parabola has three parameters."""
FEWEST_BUDGETS = 3
"""Budgets with a minimum inside of the grid. A line through two of them has no error."""


class Minimum(NamedTuple):
    """The least error of a budget."""

    flops: float
    size: Estimate
    smallest: float
    """Of the budget's sizes."""
    largest: float
    value: float
    """The quantity at the minimum."""
    tokens: float
    why: str
    """Why the minimum cannot be used; "" if it can."""


class Frontier(NamedTuple):
    """How the best size and the best number of tokens grow with the budget: exponents of FLOPs."""

    minima: list[Minimum]
    size_exponent: Estimate | None
    tokens_exponent: Estimate | None
    value_exponent: Estimate | None
    why: str
    """Why there is no frontier; "" if there is one."""


def frontier_of(flops_N: Array, sizes_N: Array, tokens_N: Array, y_N: Array, rng: np.random.Generator) -> Frontier:
    """Return the minima of all budgets and the frontier through those that are inside of the grid."""
    budgets = [flops for flops in np.unique(flops_N) if len(np.unique(sizes_N[flops_N == flops])) >= FEWEST_SIZES]
    if len(budgets) < FEWEST_BUDGETS:
        verb = "budget has" if len(budgets) == 1 else "budgets have"
        return Frontier([], None, None, None, f"{len(budgets)} {verb} {FEWEST_SIZES} sizes or more, {FEWEST_BUDGETS} are needed")
    chosen_N = np.isin(flops_N, budgets)
    curves = _Parabolas(flops_N[chosen_N], np.log(sizes_N[chosen_N]), np.log(y_N[chosen_N]), np.array(budgets), rng)
    lines_K2 = np.array([curves.tokens_line(number, tokens_N[chosen_N]) for number in range(len(budgets))])
    minima = [_minimum(curves, number, lines_K2[number]) for number in range(len(budgets))]
    inside = [number for number, minimum in enumerate(minima) if not minimum.why]
    if len(inside) < FEWEST_BUDGETS:
        first = next(minimum for minimum in minima if minimum.why)
        why = f"{len(inside)} of {len(budgets)} budgets have their minimum inside of the grid, {FEWEST_BUDGETS} are needed; {first.why}"
        return Frontier(minima, None, None, None, why)
    log_flops_K = np.log(np.array(budgets))[inside]
    sizes = _slope(log_flops_K, curves.best_K[inside], curves.best_BK[:, inside])
    slope_K, constant_K = lines_K2[inside].T
    tokens = _slope(log_flops_K, slope_K * curves.best_K[inside] + constant_K, slope_K * curves.best_BK[:, inside] + constant_K)
    values = _slope(log_flops_K, curves.least_K[inside], curves.least_BK[:, inside])
    return Frontier(minima, sizes, tokens, values, "")


class _Parabolas:
    """A parabola of log y over log size for each budget, and the same for made-up data."""

    def __init__(self, flops_N: Array, log_sizes_N: Array, log_y_N: Array, budgets_K: Array, rng: np.random.Generator) -> None:
        self.budgets_K, self.flops_N, self.log_sizes_N = budgets_K, flops_N, log_sizes_N
        fitted_N = np.empty_like(log_y_N)
        for flops in budgets_K:
            at = flops_N == flops
            fitted_N[at] = np.polyval(np.polyfit(log_sizes_N[at], log_y_N[at], 2), log_sizes_N[at])
        _, cells_N = np.unique(np.stack([flops_N, log_sizes_N]), axis=1, return_inverse=True)
        blocks = Blocks(log_y_N - fitted_N, cells_N, 3 * len(budgets_K), rng)
        self.best_K, self.least_K = self._vertices(log_y_N)
        found = [self._vertices(fitted_N + blocks.draw(cells_N, scale)) for scale in blocks.scales(REPETITIONS)]
        self.best_BK, self.least_BK = np.array([best for best, _ in found]), np.array([least for _, least in found])

    def tokens_line(self, number: int, tokens_N: Array) -> tuple[float, float]:
        """Return slope and constant of log tokens over log size in a budget: what a token costs need not be in proportion to the size."""
        at = self.flops_N == self.budgets_K[number]
        slope, constant = np.polyfit(self.log_sizes_N[at], np.log(tokens_N[at]), 1)
        return float(slope), float(constant)

    def _vertices(self, log_y_N: Array) -> tuple[Array, Array]:
        """Return log size and log y at the minimum of each budget. Where a curve has none, the size is infinitely far on the lower side."""
        best, least = [], []
        for flops in self.budgets_K:
            at = self.flops_N == flops
            x, y = self.log_sizes_N[at], log_y_N[at]
            square, slope, constant = np.polyfit(x - x.mean(), y, 2)
            if square <= 0:
                best.append(np.inf if slope < 0 else -np.inf)
                least.append(float(y.min()))
            else:
                best.append(x.mean() - slope / (2 * square))
                least.append(constant - slope**2 / (4 * square))
        return np.array(best), np.array(least)


def _minimum(curves: _Parabolas, number: int, tokens_line: Array) -> Minimum:
    flops = curves.budgets_K[number]
    at = curves.flops_N == flops
    low, high = float(np.exp(curves.log_sizes_N[at].min())), float(np.exp(curves.log_sizes_N[at].max()))
    with np.errstate(over="ignore"):
        size = interval(float(np.exp(curves.best_K[number])), np.exp(curves.best_BK[:, number]), method="nearest")
    slope, constant = tokens_line
    clipped = np.clip(curves.best_K[number], np.log(low), np.log(high))
    ends = [name for name, is_outside in (("smallest", size.low <= low), ("largest", size.high >= high)) if is_outside]
    why = ""
    if ends:
        found = f"{within(size.low, low, high)} to {within(size.high, low, high)}"
        why = f"at {flops:.3g} FLOPs the minimum may be at the {' or the '.join(ends)} size or beyond ({found})"
    return Minimum(float(flops), size, low, high, float(np.exp(curves.least_K[number])), float(np.exp(constant + slope * clipped)), why)


def _slope(x_K: Array, y_K: Array, y_BK: Array) -> Estimate:
    """Return the slope of y over x with its interval."""
    center_K = x_K - x_K.mean()
    finite = np.isfinite(y_BK).all(1)
    slopes_B = (y_BK[finite] * center_K).sum(1) / (center_K**2).sum()
    return interval(float((y_K * center_K).sum() / (center_K**2).sum()), slopes_B)
