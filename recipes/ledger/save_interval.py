"""How often to save: the interval with the lowest total cost of saving and of repeating lost work. Arithmetic only."""

import math
from statistics import median
from typing import Any

from recipes.errors import ConfigError


def young_interval(cost: float, mtbf: float) -> float:
    """Return the time of work between two saves, in the unit of the arguments.

    `cost`: the time of one save. `mtbf`: the mean time between failures.

    Source: Young 1974, "A first order approximation to the optimum checkpoint interval".
    """
    return math.sqrt(2 * cost * mtbf)


def daly_interval(cost: float, mtbf: float) -> float:
    """Return the time of work between two saves, in the unit of the arguments. Unlike young_interval(), it allows for failures
    during a save or during repeated work.

    `cost`: the time of one save. `mtbf`: the mean time between failures. If `cost` is 2 * mtbf or more, the result is `mtbf`.

    Source: Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equation 37.
    """
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return young_interval(cost, mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def advise(costs: list[float], write_seconds: list[float], step_seconds: list[float], mtbf_hours: float) -> dict[str, Any] | None:
    """Return the advised seconds and number of updates between two saves, and the numbers they are computed from; None if no save or no
    update was measured. The interval is not shorter than the median write, because saves would then wait for each other.

    `costs`: for each save, the seconds for which training stood still. `write_seconds`: for each save, the seconds of writing in the
    background. `step_seconds`: for each row of metrics.jsonl, the mean seconds of an update. `mtbf_hours`: mean time between failures.

    Raises: ConfigError if `mtbf_hours` is not a positive finite number.
    """
    if not (0 < mtbf_hours < math.inf):
        raise ConfigError(f"--mtbf-hours {mtbf_hours:g}: must be a number of hours above 0")
    if not costs or not step_seconds or median(step_seconds) <= 0:
        return None
    cost, write, mtbf = median(costs), median(write_seconds or [0.0]), mtbf_hours * 3600
    daly = daly_interval(cost, mtbf)
    return {
        "mtbf_hours": mtbf_hours,
        "cost_seconds": cost,
        "write_seconds": write,
        "step_seconds": median(step_seconds),
        "young_seconds": young_interval(cost, mtbf),
        "daly_seconds": daly,
        "interval_seconds": max(daly, write),
        "save_steps": max(1, math.ceil(max(daly, write) / median(step_seconds))),
    }
