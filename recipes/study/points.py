"""The points that a law is fitted to: one for each run that can be used, with its size, its data, its ranks and the quantity. numpy.

The loss of data2vec cannot be one of them: its targets are the teacher's, which differ from run to run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from recipes.errors import ConfigError
from recipes.study.law import Array
from recipes.study.log_sample import Row
from recipes.study.results_table import AXIS
from recipes.study.study_file import SIZES, Study, short_names
from recipes.train.probe import METRIC

SAME = 1.02
"""Values whose ratio is below this are equal: budgets are rounded to whole updates."""


class Quantity(NamedTuple):
    """What a law describes: a number that becomes smaller as the run becomes larger."""

    name: str
    of: Callable[[float], float]


QUANTITIES: Mapping[str, Quantity] = {
    METRIC: Quantity("error (1 - probe)", lambda score: 1 - score),
    "step_seconds": Quantity("time of an update (seconds)", lambda seconds: seconds),
    "tokens_per_second": Quantity("time per token (seconds)", lambda rate: 1 / rate if rate else 0.0),
}
"""Key of metrics.jsonl -> the quantity that is fitted."""
TIMES = ("step_seconds", "tokens_per_second")
"""Metrics of speed. They fall with ranks alone: how they grow with the size is the planner's business."""


class Left(NamedTuple):
    """A run that is not fitted, and why."""

    cell: str
    seed: int
    why: str


@dataclass(frozen=True)
class Points:
    """The runs that can be fitted. Shapes: N runs, J variables."""

    variables: tuple[str, ...]
    """Columns of the table that the law depends on."""
    quantity: Quantity
    x_NJ: Array
    y_N: Array
    rows: tuple[Row, ...]
    left: tuple[Left, ...]

    @property
    def cells(self) -> list[str]:
        """The cell of each run."""
        return [row["cell"] for row in self.rows]

    @property
    def cell_numbers(self) -> Array:
        """For each run the number of its cell, from 0, in the order of their first runs. Shapes: (N,)."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.cells))}
        return np.array([numbers[name] for name in self.cells])

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(set(self.cells))

    def where(self, chosen_N: Array) -> "Points":
        """Return the points of these runs alone."""
        places = np.flatnonzero(chosen_N)
        rows = tuple(self.rows[place] for place in places)
        return Points(self.variables, self.quantity, self.x_NJ[places], self.y_N[places], rows, self.left)


def points_of(study: Study, rows: Sequence[Row]) -> Points:
    """Return the points of the table. Raises: ConfigError if the metric cannot be fitted, or nothing that a law could depend on varies."""
    quantity = _quantity(study)
    size = study.fit.get("size", SIZES[0])
    rows = _chosen(study, rows)
    used, left = list[tuple[Row, float]](), list[Left]()
    for row in rows:
        why, value = _usable(row, quantity)
        if why:
            left.append(Left(row["cell"], row["seed"], why))
        else:
            used.append((row, value))
    if not used:
        first = f"; {left[0].cell} seed {left[0].seed}: {left[0].why}" if left else ""
        raise ConfigError(f"{study.out}: none of {len(rows)} runs can be fitted{first}")
    found = [row for row, _ in used]
    variables = _variables(study, found, size)
    x_NJ = np.array([[float(row[name]) for name in variables] for row in found])
    return Points(variables, quantity, x_NJ, np.array([value for _, value in used]), tuple(found), tuple(left))


def _chosen(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that the study's `fit.where` chooses. Raises: ConfigError if it chooses nothing."""
    shown = short_names(study.axes)
    where = {f"{AXIS}{shown.get(axis, axis)}": value for axis, value in study.fit.get("where", {}).items()}
    found = [row for row in rows if all(row.get(axis) == value for axis, value in where.items())]
    if not found:
        there = "; ".join(f"{axis.removeprefix(AXIS)} has {sorted({str(row.get(axis)) for row in rows})}" for axis in where)
        raise ConfigError(f"{study.path}: fit: where: no run has {study.fit['where']}; {there}")
    return found


def _quantity(study: Study) -> Quantity:
    key = study.metric_key
    if key not in QUANTITIES:
        raise ConfigError(
            f"{study.path}: metric {key} cannot be fitted: the targets of data2vec are its teacher's, so losses and explained variances of "
            f"different runs are not comparable; use probe.cloze, probe.classify, probe.reference, {' or '.join(TIMES)}"
        )
    return QUANTITIES[key]


def _usable(row: Row, quantity: Quantity) -> tuple[str, float]:
    """Return ("", the quantity) of a run, or why it is not fitted."""
    if row["state"] != "done":
        return f"{row['state']}{': ' + row['reason'] if row['reason'] else ''}", 0.0
    if row["problem"] or row["metric"] is None:
        return row["problem"] or "has no value of the metric", 0.0
    value = quantity.of(row["metric"])
    return ("", value) if 0 < value < float("inf") else (f"{quantity.name} is {value:g}, and its logarithm is fitted", 0.0)


def _variables(study: Study, rows: Sequence[Row], size: str) -> tuple[str, ...]:
    """Return the columns that the law depends on: those of size, data and ranks that vary. Raises: ConfigError if none does."""
    candidates = ("ranks",) if study.metric_key in TIMES else (size, "tokens")
    found = tuple(name for name in candidates if _varies([float(row[name]) for row in rows]))
    if not found:
        raise ConfigError(
            f"{study.path}: none of {', '.join(candidates)} varies between the {len(rows)} runs, so there is no law; report has the means"
        )
    return found


def _varies(values: Sequence[float]) -> bool:
    return max(values) > SAME * min(values)


def num_distinct(values: Any) -> int:
    """Return the number of values that differ by more than rounding (SAME)."""
    ordered = sorted(values)
    return 1 + sum(after > SAME * before for before, after in pairwise(ordered))


def group_equal(x_NJ: Array) -> Array:
    """Return for each row the number of the first row that is equal to it up to rounding (SAME). Shapes: (N,)."""
    log_NJ = np.log(x_NJ)
    return np.array([int(np.flatnonzero(np.abs(log_NJ - row).max(1) < np.log(SAME))[0]) for row in log_NJ])
