"""How often to save: the interval at which saving and doing lost work again cost the least together. Arithmetic, nothing else."""

import math
from statistics import median
from typing import Any

from recipes.errors import ConfigError


def young_interval(cost: float, mtbf: float) -> float:
    """Work between two saves that cost `cost` each, where a failure comes every `mtbf` on average, in their unit.

    Source: Young 1974, "A first order approximation to the optimum checkpoint interval".
    """
    return math.sqrt(2 * cost * mtbf)


def daly_interval(cost: float, mtbf: float) -> float:
    """The same with the failures during saving and redoing: differs from Young's where a save is not much shorter than `mtbf`.

    Source: Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equation 37.
    """
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return young_interval(cost, mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost


def advise(costs: list[float], write_seconds: list[float], step_seconds: list[float], mtbf_hours: float) -> dict[str, Any] | None:
    """The interval from medians of what was measured: seconds that training stood still for each save, that each was written
    in the background, and of each update. Not shorter than a write, or saves would wait for each other.

    None where no save or no step was measured. Raises: ConfigError for a mean time between failures that is none.
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
