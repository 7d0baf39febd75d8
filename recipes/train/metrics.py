"""Writes a run's metrics to metrics.jsonl (the record), the terminal (step_lines.py) and, on request, wandb. Computes rates only."""

from dataclasses import dataclass
from typing import Any

import torch

from recipes.config import Recipe, RunConfig
from recipes.objectives.base import Display
from recipes.plan.devices import device_by_cuda_name
from recipes.plan.flops import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train.mirror import WandbMirror
from recipes.train.step_lines import StepLines


@dataclass
class Interval:
    """Totals since the last logged step."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    data_wait_seconds: float = 0.0

    def add(self, seconds: float, tokens: int, data_wait_seconds: float) -> None:
        """Add the seconds, tokens and data wait of one update."""
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        self.data_wait_seconds += data_wait_seconds


class MetricsWriter:
    """Writes logged steps on rank 0. Timings are means since the previous logged step."""

    def __init__(
        self, lines: JsonLines, recipe: Recipe, display: Display, *, mirror: WandbMirror | None, device: torch.device, first_step: int
    ) -> None:
        self._lines, self._recipe, self._mirror = lines, recipe, mirror
        self._peak = recipe.run.device_tflops * 1e12 or device_peak_flops(device)
        self.terminal = StepLines(display, first_step=first_step, last_step=recipe.run.max_steps)

    def write(self, metrics: dict[str, Any], interval: Interval) -> None:
        """Add the rates over `interval` (seconds per step, tokens per second, MFU) to `metrics`, and write them to metrics.jsonl, the
        terminal and wandb."""
        flops = step_flops(self._recipe, interval.tokens, interval.steps * self._recipe.run.global_batch_size) / interval.seconds
        metrics["step_seconds"] = interval.seconds / interval.steps
        metrics["tokens_per_second"] = interval.tokens / interval.seconds
        metrics["mfu"] = flops / (self._peak * metrics["world_size"]) if self._peak else None
        self._lines.append(metrics)
        self.terminal.show(metrics)
        if self._mirror:
            self._mirror.log(metrics)

    def close(self) -> None:
        """Close the progress bar and the copy to wandb. Waits for wandb only a bounded time."""
        self.terminal.close()
        if self._mirror:
            self._mirror.finish()


def unknown_peak_line(run: RunConfig, device: torch.device) -> str | None:
    """Return a line about mfu being null, and how to change that; None if the peak of `device` is known or given by `run`, or if it is a
    CPU."""
    if run.device_tflops or device.type == "cpu" or device_peak_flops(device):
        return None
    name = torch.cuda.get_device_name(device)
    return f"mfu is null: no peak is known for {name}; --set run.device_tflops=N gives it, in dense TFLOP/s from its data sheet"


def device_peak_flops(device: torch.device) -> float | None:
    """Return the peak dense bf16 FLOP/s of one device; None if it is unknown, as for a slice of a GPU (MIG)."""
    if device.type != "cuda":
        return None
    found = device_by_cuda_name(torch.cuda.get_device_name(device))
    return 1e12 * found.peak("bf16") if found else None
