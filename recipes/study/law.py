"""Power laws with an irreducible term, y = E + sum over j of A_j x_j^-a_j, fitted to measured values: robustly, in log space, from many
starts. numpy and scipy.

Sources: Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.2: Huber loss of log y, many starts, and the form for size and data);
Kaplan et al. 2020 (arXiv 2001.08361).

Shapes: N measured values, J variables, P = 1 + 2 J parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import least_squares

Array = np.ndarray
HUBER = 1.345
"""Residuals up to this many standard deviations count squared, larger ones linearly: 95 % efficiency under normal noise (Huber 1964)."""
LEAST_SCALE = 1e-6
"""Least standard deviation of residuals, for values without noise."""
IRREDUCIBLE_STARTS = (1e-4, 0.3, 0.6, 0.9)
"""Starts of E, as shares of the least measured value."""
EXPONENT_STARTS = (0.1, 0.3, 0.6, 1.2)
MOST_EXPONENT, LEAST_IRREDUCIBLE, MOST_IRREDUCIBLE = 5.0, 1e-6, 1.2
"""Bounds of a_j, and of E as shares of the least measured value."""
TOLERANCE = 1e-9
MOST_ROUNDS, SETTLED = 8, 0.9
"""The scale of the residuals has settled if a round makes it no smaller than this share."""
MOST_STEPS = 100
"""Steps of a search. From a bad start it would creep along a valley for seconds."""


@dataclass(frozen=True)
class Law:
    """A fitted law. `theta_P`: log E, then for each variable log A_j (at the centre of its values) and a_j. `center_J`: mean of log x_j."""

    theta_P: Array
    center_J: Array
    scale: float
    """Robust standard deviation of the residuals in log y."""

    @property
    def irreducible(self) -> float:
        """E."""
        return float(np.exp(self.theta_P[0]))

    @property
    def exponents(self) -> list[float]:
        """a_j of each variable."""
        return [float(value) for value in self.theta_P[2::2]]

    @property
    def factors(self) -> list[float]:
        """A_j of each variable, as it stands before x_j^-a_j."""
        return [float(value) for value in np.exp(self.theta_P[1::2] + self.theta_P[2::2] * self.center_J)]

    def log_values(self, log_x_NJ: Array) -> Array:
        """Return log y at the places log x. Shapes: (N,)."""
        return np.log(_values(self.theta_P, log_x_NJ - self.center_J))


def fit_law(log_x_NJ: Array, log_y_N: Array, start: Law | None = None) -> Law:
    """Return the law that fits best. `start`: a law that fits nearly, from which alone the search then begins; else it begins from many."""
    center_J = log_x_NJ.mean(0) if start is None else start.center_J
    x_NJ = log_x_NJ - center_J
    if start is not None:
        theta_P = _search(x_NJ, log_y_N, start.theta_P, start.scale).x
        return Law(theta_P, center_J, robust_scale(_residuals(theta_P, x_NJ, log_y_N)))
    # squares first, for the scale of the residuals; an outlier makes that too large, so the fit and its scale are repeated
    found = min((_search(x_NJ, log_y_N, theta_P, np.inf) for theta_P in _starts(x_NJ, log_y_N)), key=lambda result: result.cost)
    theta_P, scale = found.x, robust_scale(found.fun)
    for _ in range(MOST_ROUNDS):
        theta_P = _search(x_NJ, log_y_N, theta_P, scale).x
        before, scale = scale, robust_scale(_residuals(theta_P, x_NJ, log_y_N))
        if scale > SETTLED * before:
            break
    return Law(theta_P, center_J, scale)


def robust_scale(residuals_N: Array) -> float:
    """Return a standard deviation that outliers hardly change: 1.4826 times the median absolute value."""
    return max(LEAST_SCALE, 1.4826 * float(np.median(np.abs(residuals_N))))


def _starts(x_NJ: Array, log_y_N: Array) -> Iterator[Array]:
    least, middle = float(log_y_N.min()), float(np.exp(np.median(log_y_N)))
    for share, *exponents in product(IRREDUCIBLE_STARTS, *[EXPONENT_STARTS] * x_NJ.shape[1]):
        irreducible = share * np.exp(least)
        factor = max(middle - irreducible, 1e-3 * middle) / x_NJ.shape[1]
        yield np.array([np.log(irreducible), *(value for a in exponents for value in (np.log(factor), a))])


def _search(x_NJ: Array, log_y_N: Array, start_P: Array, scale: float) -> Any:
    low, high = _bounds(x_NJ.shape[1], log_y_N)
    robust = {"loss": "huber", "f_scale": HUBER * scale} if np.isfinite(scale) else {}
    start_P = np.clip(start_P, low + 1e-9, high - 1e-9)
    return least_squares(
        _residuals,
        start_P,
        _jacobian,
        bounds=(low, high),
        args=(x_NJ, log_y_N),
        xtol=TOLERANCE,
        ftol=TOLERANCE,
        gtol=TOLERANCE,
        max_nfev=MOST_STEPS,
        **robust,
    )


def _bounds(num_variables: int, log_y_N: Array) -> tuple[Array, Array]:
    least = log_y_N.min()
    low = np.array([least + np.log(LEAST_IRREDUCIBLE), *[least - 30.0, 0.0] * num_variables])
    high = np.array([least + np.log(MOST_IRREDUCIBLE), *[log_y_N.max() + 30.0, MOST_EXPONENT] * num_variables])
    return low, high


def _terms(theta_P: Array, x_NJ: Array) -> Array:
    return np.exp(theta_P[1::2] - theta_P[2::2] * x_NJ)


def _values(theta_P: Array, x_NJ: Array) -> Array:
    return np.exp(theta_P[0]) + _terms(theta_P, x_NJ).sum(1)


def _residuals(theta_P: Array, x_NJ: Array, log_y_N: Array) -> Array:
    return np.log(_values(theta_P, x_NJ)) - log_y_N


def _jacobian(theta_P: Array, x_NJ: Array, log_y_N: Array) -> Array:
    terms_NJ = _terms(theta_P, x_NJ)
    jacobian_NP = np.empty((len(x_NJ), len(theta_P)))
    jacobian_NP[:, 0] = np.exp(theta_P[0])
    jacobian_NP[:, 1::2] = terms_NJ
    jacobian_NP[:, 2::2] = -terms_NJ * x_NJ
    return jacobian_NP / _values(theta_P, x_NJ)[:, None]
