"""The verb fit: a law through the collected runs, its intervals, its prediction of the runs that were held out, and the tests that the
data must pass for it. Writes fit.json. numpy and scipy."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution

from recipes.errors import ConfigError
from recipes.study.bootstrap import LEVEL, Bootstrap, Estimate
from recipes.study.fit_lines import FRONTIER, LAW
from recipes.study.isoflop import Frontier, frontier_of
from recipes.study.law import Array, fit_law
from recipes.study.log_sample import Row
from recipes.study.points import SAME, Points, group_equal, num_distinct, points_of
from recipes.study.study_file import Study
from recipes.study.wording import in_number
from recipes.system.durable import write_text_atomically

FIT = "fit.json"
SEED = 0
FEWEST_VALUES = 3
"""Different values of each variable: two cannot show that a law bends."""
SPARE_CELLS = 2
"""Cells beyond the number of parameters."""
SIGNIFICANCE = 0.01
"""Probability with which data without a law pass the test of the effect."""
MOST_CORRELATION = 0.98
LEAST_SHARE = 0.01
"""Share of the least measured value below which an irreducible term may as well be none."""
MOST_HELD_OUT = 0.5
CURVE_POINTS = 60


@dataclass
class Fit:
    """The content of fit.json."""

    study: str
    metric: str
    options: dict[str, Any] = field(default_factory=dict)
    """The section `fit` of the study file."""
    quantity: str = ""
    variables: tuple[str, ...] = ()
    num_runs: int = 0
    num_cells: int = 0
    left: list[dict[str, Any]] = field(default_factory=list)
    """Runs that are not fitted, and why."""
    law: dict[str, Any] | None = None
    held_out: list[dict[str, Any]] = field(default_factory=list)
    isoflop: dict[str, Any] | None = None
    tests: list[dict[str, Any]] = field(default_factory=list)

    def test(self, name: str, passed: bool, detail: str, *, of: Sequence[str] = (LAW,)) -> bool:
        """Record a test that the data must pass, and return whether they do. `of`: what they do not support if they fail it."""
        self.tests.append({"name": name, "of": list(of), "passed": bool(passed), "detail": detail})
        return bool(passed)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The tests that the data do not pass."""
        return [test for test in self.tests if not test["passed"]]

    def to_json(self) -> dict[str, Any]:
        """Return the content of fit.json."""
        unsupported = {what for test in self.failed for what in test["of"]}
        found = {LAW: self.law, FRONTIER: self.isoflop}
        supported = [what for what, content in found.items() if content is not None and what not in unsupported]
        return {**vars(self), "variables": list(self.variables), "level": LEVEL, "supported": supported}


def fit_study(study: Study, rows: Sequence[Row]) -> Fit:
    """Fit the study's law, write fit.json, and return what it says. Raises: ConfigError if the metric cannot be fitted, or no run can."""
    fit = fit_rows(study, rows)
    try:
        write_text_atomically(study.out / FIT, json.dumps(fit.to_json(), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"{study.out / FIT} cannot be written ({error.strerror}); free the disk and fit again") from None
    return fit


def fit_rows(study: Study, rows: Sequence[Row]) -> Fit:
    """Fit the study's law to rows of its table. Raises: ConfigError if the metric cannot be fitted, or no run can."""
    points = points_of(study, rows)
    fit = Fit(**_asked(study), quantity=points.quantity.name, variables=points.variables)
    fit.num_runs, fit.num_cells = len(points.rows), points.num_cells
    fit.left = [left._asdict() for left in points.left]
    rng = np.random.default_rng(SEED)
    if not _check_places(fit, points):
        return fit
    _fit_law(study, fit, points, rng)
    if len(points.variables) == 2 and any(row.get("budget_flops") for row in points.rows):
        _fit_frontier(fit, points, rng)
    return fit


def read_fit(study: Study) -> dict[str, Any] | None:
    """Return the content of fit.json; None if there is no such file, or it is one of another metric, other options, or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads((study.out / FIT).read_text())
        if isinstance(content, dict) and all(content.get(key) == value for key, value in _asked(study).items()):
            return content
    return None


def _asked(study: Study) -> dict[str, Any]:
    """Return what of the study file a fit depends on, beside the table."""
    return {"study": study.name, "metric": study.metric, "options": dict(study.fit)}


def _fit_law(study: Study, fit: Fit, points: Points, rng: np.random.Generator) -> None:
    held_N = held_out(study, points)
    fitted, held = points.where(~held_N), points.where(held_N)
    if not _check_points(fit, fitted):
        return
    log_x_NJ, log_y_N, cells_N = np.log(fitted.x_NJ), np.log(fitted.y_N), fitted.cell_numbers
    law = fit_law(log_x_NJ, log_y_N)
    if not _check_effect(fit, law.log_values(log_x_NJ), log_y_N, cells_N, len(law.theta_P)):
        return
    bootstrap = Bootstrap(law, log_x_NJ, log_y_N, cells_N, rng)
    exponents = [bootstrap.exponent(number) for number in range(len(points.variables))]
    irreducible = bootstrap.irreducible()
    fit.law = {
        "formula": formula(points.variables),
        "irreducible": irreducible._asdict(),
        "exponents": {name: one._asdict() for name, one in zip(points.variables, exponents, strict=True)},
        "factors": dict(zip(points.variables, law.factors, strict=True)),
        "has_irreducible": irreducible.low > LEAST_SHARE * float(fitted.y_N.min()),
        "residual_scale": law.scale,
        "curves": _curves(points, bootstrap) if len(points.variables) == 1 else [],
    }
    fit.held_out = _predict(held, bootstrap)
    _check_width(fit, bootstrap, np.log(points.x_NJ), law.log_values(log_x_NJ))


def held_out(study: Study, points: Points) -> Array:
    """Return for each run whether it is held out: the largest value of the first variable, unless the study's `fit.held_out` is false, or
    it would be more than half of the runs."""
    if study.fit.get("held_out", True) is False:
        return np.zeros(len(points.y_N), dtype=bool)
    held_N = points.x_NJ[:, 0] * SAME >= points.x_NJ[:, 0].max()
    return held_N if held_N.mean() <= MOST_HELD_OUT else np.zeros_like(held_N)


def _check_places(fit: Fit, points: Points) -> bool:
    """Check that no two cells have the same values of the variables."""
    by_place: dict[int, set[str]] = {}
    for place, cell in zip(group_equal(points.x_NJ).tolist(), points.cells, strict=True):
        by_place.setdefault(place, set()).add(cell)
    double = next((sorted(cells) for cells in by_place.values() if len(cells) > 1), None)
    same = f"{' and '.join(double[:2])} have the same {', '.join(points.variables)}; choose by fit.where" if double else "yes"
    return fit.test("one cell at a place", double is None, same, of=(LAW, FRONTIER))


def _check_points(fit: Fit, fitted: Points) -> bool:
    """Check that there are enough cells, and that the variables do not change together."""
    num_parameters = 1 + 2 * len(fitted.variables)
    needed = num_parameters + SPARE_CELLS
    counts = [num_distinct(column) for column in fitted.x_NJ.T]
    parts = ", ".join(f"{in_number(count, 'value')} of {name}" for count, name in zip(counts, fitted.variables, strict=True))
    enough = fitted.num_cells >= needed and min(counts) >= FEWEST_VALUES
    least = f"needed are {needed} cells for {num_parameters} parameters, and {FEWEST_VALUES} values"
    detail = f"{in_number(fitted.num_cells, 'cell')} without those held out, {parts}; {least}"
    if not fit.test("points", enough, detail):
        return False
    if len(fitted.variables) == 2:
        together = abs(float(np.corrcoef(np.log(fitted.x_NJ).T)[0, 1]))
        detail = f"the correlation of the logarithms of {' and '.join(fitted.variables)} is {together:.3f}, at most {MOST_CORRELATION}"
        return fit.test("variables apart", together <= MOST_CORRELATION, detail)
    return True


def _check_effect(fit: Fit, fitted_N: Array, log_y_N: Array, cells_N: Array, num_parameters: int) -> bool:
    """Check by an F test on the means of cells that the law explains more than a constant does."""
    count = int(cells_N.max()) + 1
    means_C, law_C = (np.array([values[cells_N == cell].mean() for cell in range(count)]) for values in (log_y_N, fitted_N))
    total, rest = float(((means_C - means_C.mean()) ** 2).sum()), float(((means_C - law_C) ** 2).sum())
    freedom = count - num_parameters
    ratio = ((total - rest) / (num_parameters - 1)) / max(rest / freedom, 1e-30)
    chance = float(f_distribution.sf(ratio, num_parameters - 1, freedom)) if ratio > 0 else 1.0
    detail = f"a constant is as good with a probability of {chance:.2g}, at most {SIGNIFICANCE}"
    return fit.test("effect", chance <= SIGNIFICANCE, detail)


def _check_width(fit: Fit, bootstrap: Bootstrap, log_x_NJ: Array, fitted_N: Array) -> None:
    """Check that the law's interval at the largest values is narrower than what the law explains."""
    (far,) = bootstrap.values(log_x_NJ.max(0, keepdims=True))
    width, effect = float(np.log(far.high / far.low)), float(np.ptp(fitted_N))
    fit.test(
        "interval",
        width <= effect,
        f"at the largest values the interval spans a factor of {np.exp(width):.3g}, the law one of {np.exp(effect):.3g}",
    )


def _predict(held: Points, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    found = []
    for cell in dict.fromkeys(held.cells):
        places = np.array([name == cell for name in held.cells])
        own = held.where(places)
        (predicted,) = bootstrap.predictions(np.log(own.x_NJ[:1]), len(own.y_N))
        measured = float(np.exp(np.log(own.y_N).mean()))
        x = dict(zip(held.variables, own.x_NJ[0].tolist(), strict=True))
        found.append({"cell": cell, **x, "measured": measured, **predicted._asdict(), "inside": predicted.contains(measured)})
    return found


def _curves(points: Points, bootstrap: Bootstrap) -> list[dict[str, float]]:
    """Return the law of one variable with its interval, for a picture: a little beyond the largest value."""
    low, high = float(points.x_NJ.min()), 1.5 * float(points.x_NJ.max())
    x_Q = np.geomspace(low, high, CURVE_POINTS)
    return [{"x": float(x), **value._asdict()} for x, value in zip(x_Q, bootstrap.values(np.log(x_Q)[:, None]), strict=True)]


def _fit_frontier(fit: Fit, points: Points, rng: np.random.Generator) -> None:
    flops_N = np.array([row.get("budget_flops") or 0.0 for row in points.rows])
    found = frontier_of(flops_N, points.x_NJ[:, 0], points.x_NJ[:, 1], points.y_N, rng)
    fit.isoflop = _frontier_json(found)
    fit.test("minima inside of the grid", not found.why, found.why or f"{len(found.minima)} budgets", of=(FRONTIER,))


def _frontier_json(found: Frontier) -> dict[str, Any]:
    def number(value: Estimate | None) -> dict[str, float] | None:
        return value._asdict() if value else None

    minima = [
        {
            "flops": one.flops,
            "size": _bounded(one.size.value),
            "low": _bounded(one.size.low),
            "high": _bounded(one.size.high),
            "smallest": one.smallest,
            "largest": one.largest,
            "value": one.value,
            "tokens": one.tokens,
            "why": one.why,
        }
        for one in found.minima
    ]
    return {
        "minima": minima,
        "size_exponent": number(found.size_exponent),
        "tokens_exponent": number(found.tokens_exponent),
        "value_exponent": number(found.value_exponent),
        "why": found.why,
    }


def _bounded(value: float) -> float | None:
    return value if np.isfinite(value) else None


def formula(variables: Sequence[str]) -> str:
    """Return the law as a formula."""
    return " + ".join(["E", *(f"A_{name} * {name}^-a_{name}" for name in variables)])
