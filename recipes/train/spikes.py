"""Finds spikes of loss and gradient norm against a robust running statistic. recipes/train/guard.py acts on them. Torch-free."""

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

from recipes.config import GuardConfig

Quantity = Literal["loss", "grad_norm"]

MAD_TO_STD = 1.4826
"""Ratio of standard deviation to median absolute deviation, for normally distributed values."""
LEAST_RELATIVE_DEVIATION = 0.01
"""Lower bound of the deviation, relative to the median, so that rounding is not a spike in a window that hardly varies."""
LEAST_DEVIATION = 1e-12


@dataclass(frozen=True)
class Spike:
    """A loss or gradient norm far above the median of the last updates."""

    quantity: Quantity
    value: float
    median: float
    deviations: float
    """(value - median) / deviation of the window."""


class SpikeStatistic:
    """Loss and gradient norm of the last guard.spike_window applied updates (the window). Equal on all ranks, as the inputs are equal."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows: dict[Quantity, deque[float]] = {name: deque(maxlen=config.spike_window) for name in ("loss", "grad_norm")}

    def find(self, loss: float, grad_norm: float) -> list[Spike]:
        """Return a Spike for each of the two values that is more than guard.spike_deviations deviations above the median of its window.

        Returns [] until the windows are full, or if guard.spike is off. A value far below the median is no spike.
        """
        if self._config.spike == "off":
            return []
        measured = (self._measure("loss", loss), self._measure("grad_norm", grad_norm))
        return [spike for spike in measured if spike and spike.deviations > self._config.spike_deviations]

    def _measure(self, quantity: Quantity, value: float) -> Spike | None:
        window = self._windows[quantity]
        if len(window) < self._config.spike_window:
            return None
        median = statistics.median(window)
        spread = MAD_TO_STD * statistics.median(abs(v - median) for v in window)
        deviation = max(spread, LEAST_RELATIVE_DEVIATION * abs(median), LEAST_DEVIATION)
        return Spike(quantity, value, median, (value - median) / deviation)

    def add(self, loss: float, grad_norm: float) -> None:
        """Add loss and gradient norm of an applied update. The oldest values drop out of a full window."""
        self._windows["loss"].append(loss)
        self._windows["grad_norm"].append(grad_norm)

    def state(self) -> dict[str, list[float]]:
        """Return the stored losses and gradient norms, oldest first, ready for JSON."""
        return {name: list(window) for name, window in self._windows.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Replace the stored values by those that state() returned. If there are more than fit into the window, the newest are kept. {}
        leaves the statistic empty."""
        for name, window in self._windows.items():
            window.clear()
            window.extend(state.get(name, []))
