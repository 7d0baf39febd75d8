"""Times updates of several contenders in turn, and makes the figures: medians, ratios of pairs, and shares of the peaks."""

import os
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch

from foreign_load import ForeignLoad, busy_line
from recipes.plan.flops import step_flops
from recipes.train.metrics import device_peak_flops, unknown_peak_line
from timed_update import matmul_flops

OURS, AGAINST, PLAIN, PEER = "ours", "against", "plain", "peer"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_LINE = "mfu is null on a CPU; --set run.device_tflops=N gives its peak, in dense TFLOP/s"


class Rounds:
    """Updates of several contenders in turn. Every other round has the reverse order, so that none is always the first."""

    def __init__(self, contenders: Mapping[str, Callable[[], Mapping[str, float]]], precision: str, device: Any) -> None:
        """`contenders`: name -> function that runs one update and returns the seconds of its parts. `precision` and `device`: those of the
        matrix products whose peak is measured between the updates."""
        self._contenders, self._precision, self.device = dict(contenders), precision, device
        self.parts: dict[str, list[Mapping[str, float]]] = {name: [] for name in contenders}
        self.peak = 0.0
        """Highest rate of torch.mm that was seen, in FLOP/s."""
        self.foreign_cores: float | None = None

    def run(self, number: int, warm_up: int) -> None:
        """Do `number` measured rounds, after `warm_up` others."""
        for name in list(self._contenders)[1:]:
            for _ in range(warm_up):
                self._contenders[name]()
        load, names = ForeignLoad(), list(self._contenders)
        for count in range(number):
            for name in names if count % 2 == 0 else names[::-1]:
                self.parts[name].append(self._contenders[name]())
            self.peak = max(self.peak, matmul_flops(DTYPES[self._precision], self.device))
        self.foreign_cores = load.cores()

    def seconds(self, name: str) -> list[float]:
        """Return the duration of each update of a contender."""
        return [sum(parts.values()) for parts in self.parts[name]]

    def ratio(self, name: str, *, without: tuple[str, ...] = ()) -> float:
        """Return the median, over the rounds, of our time (without the parts in `without`) over that of the contender `name`."""
        ours = [sum(value for part, value in parts.items() if part not in without) for parts in self.parts[OURS]]
        return statistics.median(mine / theirs for mine, theirs in zip(ours, self.seconds(name), strict=True))

    def figures(self, against: list[str]) -> dict[str, Any]:
        """Return the milliseconds of an update and of its parts, and the ratios to the other contenders. `against`: the changes of
        --against."""
        totals, parts = self.seconds(OURS), self.parts[OURS]
        found: dict[str, Any] = {
            "step_milliseconds": statistics.median(totals) * 1e3,
            "best_step_milliseconds": min(totals) * 1e3,
            "split_milliseconds": {name: statistics.median(one[name] for one in parts) * 1e3 for name in parts[0]},
            "foreign_load_cores": self.foreign_cores,
        }
        for name in list(self._contenders)[1:]:
            found[f"{name}_step_milliseconds"] = statistics.median(self.seconds(name)) * 1e3
            found[f"update_over_{name}"] = self.ratio(name)
        if AGAINST in self._contenders:
            found["against"] = against
            found["against_split_milliseconds"] = {
                name: statistics.median(one[name] for one in self.parts[AGAINST]) * 1e3 for name in self.parts[AGAINST][0]
            }
        if PLAIN in self._contenders:
            found["engine_over_plain"] = self.ratio(PLAIN, without=("guard",))
        return found


def efficiency(ours: Any, rounds: Rounds) -> dict[str, Any]:
    """Return the shares of the matmul peak and of the device's peak (mfu), and notes on what a reader must know about them."""
    run, device = ours.recipe.run, rounds.device
    flops, totals = step_flops(ours.recipe, ours.batch.num_tokens, len(ours.batch.inputs)), rounds.seconds(OURS)
    device_peak = run.device_tflops * 1e12 or device_peak_flops(device)
    no_peak = None if device_peak else unknown_peak_line(run, device) or CPU_LINE
    cores = len(os.sched_getaffinity(0))
    return {
        "matmul_peak_tflops": rounds.peak / 1e12,
        "percent_of_matmul_peak": 100 * flops / statistics.median(totals) / rounds.peak,
        "best_percent_of_matmul_peak": 100 * flops / min(totals) / rounds.peak,
        "mfu": flops / statistics.median(totals) / device_peak if device_peak else None,
        "notes": [line for line in (busy_line(rounds.foreign_cores, cores), no_peak) if line],
    }
