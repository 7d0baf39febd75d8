"""Intervals of a fitted law by a bootstrap of its residuals: over cells, and over the seeds of a cell. numpy and scipy.

A cell's residuals stay together, because what the law misses at a place it misses for all seeds. The means of cells are widened by
sqrt(C / (C - P)), since a fit of P parameters makes the residuals of C cells too small (Davison and Hinkley 1997, section 6.2.3). Few
cells say little about the size of the errors, so that is drawn too, with C - P degrees of freedom.

Shapes: N runs, C cells, J variables, B repetitions, Q places of prediction.
"""

from typing import NamedTuple

import numpy as np

from recipes.study.law import Array, Law, fit_law

REPETITIONS = 400
LEVEL = 0.90
"""Share of cases in which an interval is to contain the true value."""
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Estimate(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        """True if the value is inside."""
        return self.low <= value <= self.high


class Blocks:
    """The residuals of a fit, cell by cell, from which errors of made-up data are drawn."""

    def __init__(self, residuals_N: Array, cells_N: Array, num_parameters: int, rng: np.random.Generator) -> None:
        """`cells_N`: for each run the number of its cell, from 0. `num_parameters`: of the fit."""
        count = int(cells_N.max()) + 1
        self._freedom, self._rng = max(1, count - num_parameters), rng
        groups = [residuals_N[cells_N == cell] for cell in range(count)]
        means = np.array([group.mean() for group in groups])
        self._means = (means - means.mean()) * np.sqrt(count / self._freedom)
        self._differences = [group - group.mean() for group in groups]

    def scales(self, count: int) -> Array:
        """Return `count` random factors of the errors. They make intervals as wide as Student's t: the size of the errors is an estimate
        too."""
        return np.sqrt(self._freedom / self._rng.chisquare(self._freedom, count))

    def draw(self, cells_N: Array, scale: float) -> Array:
        """Return an error for each run, of which those of a cell come from one cell."""
        errors_N = np.empty(len(cells_N))
        for cell in range(int(cells_N.max()) + 1):
            places = np.flatnonzero(cells_N == cell)
            errors_N[places] = scale * self.block(len(places))
        return errors_N

    def block(self, size: int) -> Array:
        """Return `size` errors of one cell that is drawn at random: its mean, and differences from it in random order."""
        number = self._rng.integers(len(self._means))
        differences = self._differences[number]
        order = self._rng.permutation(max(size, len(differences)))[:size] % len(differences)
        return self._means[number] + differences[order]


class Bootstrap:
    """Refits a law to made-up data: its own values with errors that are residuals of its cells."""

    def __init__(self, law: Law, log_x_NJ: Array, log_y_N: Array, cells_N: Array, rng: np.random.Generator) -> None:
        """`cells_N`: for each run the number of its cell, from 0."""
        self.law = law
        fitted_N = law.log_values(log_x_NJ)
        self._blocks = Blocks(log_y_N - fitted_N, cells_N, len(law.theta_P), rng)
        self._scales_B = self._blocks.scales(REPETITIONS)
        self.laws = [fit_law(log_x_NJ, fitted_N + self._blocks.draw(cells_N, scale), law) for scale in self._scales_B]

    def exponent(self, number: int) -> Estimate:
        """Return the exponent of a variable."""
        return interval(self.law.exponents[number], np.array([law.exponents[number] for law in self.laws]))

    def irreducible(self) -> Estimate:
        """Return the irreducible term E."""
        return interval(self.law.irreducible, np.array([law.irreducible for law in self.laws]))

    def values(self, log_x_QJ: Array) -> list[Estimate]:
        """Return the law's value at each place, without the noise of a measurement."""
        return _around(self.law.log_values(log_x_QJ), self._errors(log_x_QJ))

    def predictions(self, log_x_QJ: Array, num_seeds: int) -> list[Estimate]:
        """Return what a measurement at each place, the geometric mean of `num_seeds` runs, is predicted to be."""
        noise_BQ = np.array([[scale * self._blocks.block(num_seeds).mean() for _ in log_x_QJ] for scale in self._scales_B])
        return _around(self.law.log_values(log_x_QJ), self._errors(log_x_QJ) + noise_BQ)

    def _errors(self, log_x_QJ: Array) -> Array:
        return np.array([law.log_values(log_x_QJ) for law in self.laws]) - self.law.log_values(log_x_QJ)


def interval(value: float, values_B: Array, method: str = "linear") -> Estimate:
    """Return the estimate `value` with the quantiles of repeated estimates. `method`: that of numpy.quantile."""
    low, high = np.quantile(values_B, TAILS, method=method)  # type: ignore[call-overload]  # a Literal in numpy's types
    return Estimate(float(value), float(low), float(high))


def _around(center_Q: Array, errors_BQ: Array) -> list[Estimate]:
    found = zip(center_Q, errors_BQ.T, strict=True)
    return [Estimate(*(float(np.exp(value)) for value in interval(center, center + errors_B))) for center, errors_B in found]
