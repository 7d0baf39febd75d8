"""The comparison of a replay with its golden numbers: tolerances, printed lines, and the computed quantities. Runs nothing."""

import re
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor

TOLERANCE = 1e-5
AMPLIFIED = 5e-5
"""Golden README: instance norm over time amplifies the last bits of audio targets once teacher and student differ (the reference
itself moves by 1.3e-5 between two ways to compute attention; by 1.8e-5 where blocks are pre-LN, predictions too)."""


def amplified_quantities(meta: dict[str, Any]) -> re.Pattern[str]:
    """Return the pattern of the quantities whose tolerance is AMPLIFIED according to the golden README, for a fairseq case."""
    if meta["modality"] != "audio":
        return re.compile("(?!)")
    return re.compile(r"step[12]\.(pred|target)" if meta["config"]["layer_norm_first"] else r"step[12]\.target")


@dataclass
class Report:
    """Lines of the comparison and every replayed quantity."""

    amplified: re.Pattern[str] = re.compile("(?!)")
    tolerance: float = TOLERANCE
    failed: int = 0
    passed: int = 0
    quantities: dict[str, Tensor] = field(default_factory=dict)

    def compare(self, name: str, ours: Tensor, golden: Tensor) -> None:
        """Compare and print one line: name, largest absolute difference, tolerance, ok or FAIL. NaN and a wrong shape fail."""
        ours = ours.detach().cpu()
        self.quantities[name] = ours.contiguous().clone()  # two names may share memory, which a file cannot
        tolerance = max(self.tolerance, AMPLIFIED) if self.amplified.fullmatch(name) else self.tolerance
        difference = float((ours.double() - golden.double()).abs().max()) if ours.shape == golden.shape else float("inf")
        good = difference <= tolerance
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        if dist.get_rank() == 0:
            print(f"{name:60} {difference:.3e} {tolerance:.0e} {'ok' if good else 'FAIL'}")
