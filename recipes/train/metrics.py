"""Where a run's numbers go: metrics.jsonl (the truth), the terminal, a mirror when asked. Computes rates, no statistics."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from recipes.config import Recipe
from recipes.objectives.base import Column, Display
from recipes.plan.size import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train.mirror import WandbMirror

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bf16, from the vendor's data sheets


@dataclass
class Interval:
    """What has passed since the last logged step."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    data_wait_seconds: float = 0.0

    def add(self, seconds: float, tokens: int, data_wait_seconds: float) -> None:
        """Take in one update."""
        self.steps += 1
        self.seconds += seconds
        self.tokens += tokens
        self.data_wait_seconds += data_wait_seconds


class MetricsWriter:
    """The reporter of rank 0. `write` takes one logged step; timings are means since the step logged before."""

    def __init__(
        self, lines: JsonLines, recipe: Recipe, display: Display, *, mirror: WandbMirror | None, device: torch.device, first_step: int
    ) -> None:
        self._lines, self._recipe, self._display = lines, recipe, display
        self._peak = device_peak_flops(device)
        self._mirror = mirror
        self._bar = tqdm(initial=first_step, total=recipe.run.max_steps, unit="step", disable=not sys.stderr.isatty())

    def write(self, metrics: dict[str, Any], interval: Interval) -> None:
        """Add the rates over `interval` to `metrics` and send them to every sink."""
        flops = step_flops(self._recipe, interval.tokens, interval.steps * self._recipe.run.global_batch_size) / interval.seconds
        metrics["step_seconds"] = interval.seconds / interval.steps
        metrics["tokens_per_second"] = interval.tokens / interval.seconds
        metrics["mfu"] = flops / (self._peak * metrics["world_size"]) if self._peak else None
        self._lines.append(metrics)
        self._show(metrics)
        if self._mirror:
            self._mirror.log(metrics)

    def say(self, line: str) -> None:
        """One line on the terminal, above the bar if there is one."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Flush everything; never waits long for wandb."""
        self._bar.close()
        if self._mirror:
            self._mirror.finish()

    def _show(self, metrics: dict[str, Any]) -> None:
        remaining = (self._recipe.run.max_steps - metrics["step"]) * metrics["step_seconds"]
        facts = f"{_cells(self._display.every_step, metrics)}  {metrics['tokens_per_second']:,.0f} tokens/s"
        if metrics["mfu"] is not None:
            facts += f"  MFU {metrics['mfu']:.1%}"
        if evaluated := _cells(self._display.at_evaluations, metrics):
            facts += f"  | {evaluated}"
        if self._bar.disable:
            last = self._recipe.run.max_steps
            self.say(f"step {metrics['step']:>{len(str(last))}}/{last}  {facts}  ETA {format_seconds(remaining)}")
            return
        self._bar.set_postfix_str(facts)
        self._bar.update(metrics["step"] - self._bar.n)


def _cells(columns: Iterable[Column], metrics: Mapping[str, Any]) -> str:
    """The columns that the metrics have."""
    return "  ".join(f"{one.label} {metrics[one.key]:{one.format}}" for one in columns if one.key in metrics)


def device_peak_flops(device: torch.device) -> float | None:
    """Peak dense bf16 FLOP/s of one device, or None where it is not known, as of a slice of one (MIG)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return None if "MIG" in name else next((tflops * 1e12 for key, tflops in PEAK_TFLOPS.items() if key in name), None)


def format_seconds(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s or 12 s."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
