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
    """A value far above the window's median."""

    quantity: Quantity
    value: float
    median: float
    deviations: float
    """(value - median) / deviation of the window."""


class SpikeStatistic:
    """Loss and gradient norm of the last guard.spike_window applied updates. Equal on every rank, since the inputs are equal."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows: dict[Quantity, deque[float]] = {name: deque(maxlen=config.spike_window) for name in ("loss", "grad_norm")}

    def find(self, loss: float, grad_norm: float) -> list[Spike]:
        """Return the quantities that are more than guard.spike_deviations deviations above their median.

        Returns [] until the window is full. Values far below the median are no spikes, since a small update does no harm."""
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
        """Add an applied update to the window."""
        self._windows["loss"].append(loss)
        self._windows["grad_norm"].append(grad_norm)

    def state(self) -> dict[str, list[float]]:
        """Return the windows, ready for JSON."""
        return {name: list(window) for name, window in self._windows.items()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore state(). If the stored window is longer, the newest values are kept. {} leaves the statistic empty."""
        for name, window in self._windows.items():
            window.clear()
            window.extend(state.get(name, []))
