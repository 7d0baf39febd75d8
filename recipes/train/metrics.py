"""Where a run's numbers go: metrics.jsonl (the truth), the terminal (step_lines.py), wandb when asked. Computes rates, no statistics."""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from recipes.config import Recipe
from recipes.objectives.base import Display
from recipes.plan.size import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train.step_lines import StepLines

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bf16, from the vendor's data sheets
WANDB_PATIENCE_SECONDS = 20.0


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

    def __init__(self, lines: JsonLines, recipe: Recipe, display: Display, run_dir: Path, *, device: torch.device, first_step: int) -> None:
        self._lines, self._recipe = lines, recipe
        self._peak = device_peak_flops(device)
        self._wandb = WandbMirror(recipe, run_dir) if recipe.run.wandb != "off" else None
        self.terminal = StepLines(display, first_step=first_step, last_step=recipe.run.max_steps)

    def write(self, metrics: dict[str, Any], interval: Interval) -> None:
        """Add the rates over `interval` to `metrics` and send them to every sink."""
        flops = step_flops(self._recipe, interval.tokens, interval.steps * self._recipe.run.global_batch_size) / interval.seconds
        metrics["step_seconds"] = interval.seconds / interval.steps
        metrics["tokens_per_second"] = interval.tokens / interval.seconds
        metrics["mfu"] = flops / (self._peak * metrics["world_size"]) if self._peak else None
        self._lines.append(metrics)
        self.terminal.show(metrics)
        if self._wandb:
            self._wandb.log(metrics)

    def close(self) -> None:
        """Flush everything; never waits long for wandb."""
        self.terminal.close()
        if self._wandb:
            self._wandb.finish()


class WandbMirror:
    """A copy of the metrics in wandb. Whatever goes wrong there is said once and never stops or delays training: calls run
    on a daemon thread."""

    def __init__(self, recipe: Recipe, run_dir: Path) -> None:
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None is the end
        self._arguments: dict[str, Any] = {
            "project": "data2vec",
            "name": run_dir.name,
            "group": run_dir.name,
            "dir": str(run_dir),
            "mode": recipe.run.wandb,
        }
        self._given_up = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="wandb")
        self._thread.start()

    def log(self, metrics: dict[str, Any]) -> None:
        """Queue one step."""
        self._queue.put(dict(metrics))

    def finish(self) -> None:
        """Ask for the end and wait a bounded time."""
        self._queue.put(None)
        self._thread.join(WANDB_PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._given_up = True
            print(
                f"wandb: not done after {WANDB_PATIENCE_SECONDS:g} s; `wandb sync` sends what is in {self._arguments['dir']}",
                file=sys.stderr,
            )

    def _work(self) -> None:
        import wandb  # half a second that only runs which ask for it pay

        try:
            run = wandb.init(**self._arguments, settings=wandb.Settings(silent=True, init_timeout=WANDB_PATIENCE_SECONDS))
            while (metrics := self._queue.get()) is not None:
                run.log({k: v for k, v in metrics.items() if v is not None}, step=metrics["step"])
            run.finish()
        except (wandb.Error, OSError) as error:
            print(f"wandb: {error}; training goes on, metrics.jsonl has everything", file=sys.stderr)
        except Exception:
            if self._given_up:  # the interpreter leaves and takes wandb's service away
                return
            raise


def device_peak_flops(device: torch.device) -> float | None:
    """Peak dense bf16 FLOP/s of one device, or None where it is not known, as of a slice of one (MIG)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return None if "MIG" in name else next((tflops * 1e12 for key, tflops in PEAK_TFLOPS.items() if key in name), None)
