"""Measures an update on the device: time, share of the peak, device utilisation, waits of the host, memory; compared with plain torch."""

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import plain_step
import step_recipe
import timed_update
from accelerator import trace
from accelerator.batches import cropped
from accelerator.result import CANNOT, OK, Row
from accelerator.setting import joined_world, shipped_config
from accelerator.worker import Context, does_not_fit
from model.batch import Batch
from model.parallel import Parallel
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.engine import shards
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from recipes.plan.flops import step_flops
from recipes.train.guard import UpdateGuard
from recipes.train.memory import peak_memory_bytes
from recipes.train.metrics import device_peak_flops
from recipes.train.spikes import SpikeStatistic

MICRO_BATCHES = {
    **{"text_base": (16, 32, 64, 128), "vision_base": (16, 64, 256), "speech_base": (8,)},
    **{"text_large": (32,), "vision_large": (64,), "speech_large": (4,)},
}
SECONDS_OF_SPEECH = {"speech_base": 10, "speech_large": 20}
TINY_LENGTH = {"text": 32, "speech": 1, "vision": 0}
WARM_UP, TIMED, TRACED = 3, 10, 3
LENGTHS, LENGTH_SECONDS = 30, 12.0
LEAF_BATCH = 64


class Bench:
    """The engines of one recipe, on which updates are timed. The batches are random and are copied from the host, as in training."""

    def __init__(self, setting: "Setting", world: World, parallel: Parallel) -> None:
        """Build the engines in bf16."""
        self.recipe, self.length = setting.recipe, setting.length
        config = shipped_config(self.recipe, "zero3_bf16", 1)
        config.deepspeed["zero_optimization"].update(setting.zero)
        self.world, self.device = world, world.device
        self.objective: Any = build_objective(self.recipe, config, parallel)
        self._spikes = SpikeStatistic(self.recipe.guard)
        self._number = 0

    def batch(self, size: int) -> Batch:
        """Return a batch of `size` random samples, in host memory."""
        return step_recipe.random_batch(self.recipe, size, self.length)

    def title(self, size: int) -> str:
        """Return the recipe's name, the micro-batch `size` and the sample's length as a text for the table."""
        return f"{self.recipe.name} micro {size}" + (f" x {self.length}" if self.length else "")

    def update(self, batch: Batch) -> dict[str, float]:
        """Run one update as the training loop does. Returns the seconds that the host needed for each part of it."""
        guard = UpdateGuard(self.objective.student, self.objective.parallel, self.recipe.guard, self.world, self._spikes)
        self.objective.stream.update, self._number = self._number, self._number + 1
        return timed_update.timed_step(self.objective, batch.to(self.device), guard, waits=False)

    def milliseconds(self, update: Callable[[], object], number: int = TIMED) -> float:
        """Call `update` `number` times and return the median duration in milliseconds. Each is timed from an idle device to an idle
        device."""
        seconds = []
        for _ in range(number):
            self.wait()
            start = time.perf_counter()
            update()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return 1e3 * statistics.median(seconds)

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def plain(self) -> "plain_step.PlainStep | plain_step.PlainTaskStep":
        """Build the networks and the optimizer of the recipe in plain torch, all in bf16."""
        return plain_step.plain_step_of(self.recipe, self.objective.parallel, device=self.device, dtype=torch.bfloat16)


@dataclass(frozen=True)
class Setting:
    """What a Bench times: a recipe, the length of its samples (tokens or seconds), and zero_optimization keys that are added to the
    ds_config without a check."""

    recipe: Recipe
    length: int
    zero: dict[str, Any]


@contextmanager
def open_bench(
    context: Context, name: str, zero: dict[str, Any] | None = None, *, task: str | None = None, length: int | None = None
) -> Iterator[Bench]:
    """Join the ranks, yield a Bench of the recipe `name`, and let its memory be freed at the end. `zero`: see Setting. `task`: the task on
    which the recipe's network is fine-tuned; None: it is pre-trained. `length`: of the samples, in tokens or seconds."""
    modality = name.partition("_")[0]
    length = length or SECONDS_OF_SPEECH.get(name, MODALITIES[modality].benchmark_length)
    length = TINY_LENGTH[modality] if context.is_tiny else length
    recipe: Recipe = step_recipe.build_recipe(f"{modality}_tiny" if context.is_tiny else name, batch=1, length=length)
    recipe = step_recipe.task_recipe(recipe, task) if task else recipe
    with joined_world() as (world, parallel):
        bench = Bench(Setting(recipe, length, zero or {}), world, parallel)
        try:
            yield bench
        finally:
            shards.release(bench.objective.student)


def check_step(context: Context, name: str) -> Iterator[Row]:
    """Yield a row on the update of the recipe `name` for each micro-batch that fits into memory. For the base sizes also: where the host
    waits, which functions take longest, and the time of plain torch."""
    with open_bench(context, name) as bench:
        sizes = (2,) if context.is_tiny else MICRO_BATCHES[name]
        is_large = name.endswith("_large")  # building it again in plain torch would take as long
        if not is_large:
            yield host_waits_row(bench, sizes[0])
            yield host_profile_row(bench, sizes[0])
        found: dict[int, float] = {}
        for size in sizes:
            try:
                row = measured(bench, size)
            except torch.OutOfMemoryError as error:
                yield Row(bench.title(size), CANNOT, does_not_fit(error))
                break  # an interrupted engine cannot be used again, and the other sizes are larger
            found[size] = row.numbers["milliseconds"]
            yield row
        plain = None if is_large else bench.plain()
        for size, ours in found.items() if plain else ():
            yield plain_row(bench, plain, size, ours)


def measured(bench: Bench, size: int) -> Row:
    """Time updates without a profiler, then trace a few. Returns a row with time, MFU, peak memory and what the device did."""
    batch = bench.batch(size)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        bench.update(batch)
    milliseconds = bench.milliseconds(lambda: bench.update(batch))
    peak, peak_flops = peak_memory_bytes(bench.device), device_peak_flops(bench.device)
    flops = step_flops(bench.recipe, batch.num_tokens, size)
    parts = [bench.update(batch) for _ in range(TRACED)]
    numbers = {
        "milliseconds": milliseconds,
        "host_milliseconds": {name: 1e3 * statistics.median(part[name] for part in parts) for name in parts[0]},
        "mfu": flops / (milliseconds / 1e3) / peak_flops if peak_flops else None,
        "thousand_tokens_per_second": batch.num_tokens / milliseconds,
        "peak_memory_bytes": peak,
        **trace.traced(lambda: bench.update(batch), bench.wait, TRACED),
    }
    numbers["busy_share"] = numbers["busy_milliseconds"] / milliseconds if bench.device.type == "cuda" else None
    return Row(bench.title(size), OK, summary_line(numbers), numbers)


def host_waits_row(bench: Bench, size: int) -> Row:
    """Return a row that lists the lines of code at which the host waits for the device in one update, and how often."""
    what = f"{bench.title(size)}, where the host waits"
    if bench.device.type == "cpu":
        return Row(what, CANNOT, "the host is the device here")
    places = trace.waiting_places(lambda: bench.update(bench.batch(size)))
    seen = ", ".join(f"{place} {count} times" for place, count in places.items()) or "nowhere"
    return Row(what, OK, seen, {"places": places})


def host_profile_row(bench: Bench, size: int) -> Row:
    """Return a row that lists the Python functions that take longest in an update. Python's profiler exaggerates small functions."""
    batch, profiler = bench.batch(size), cProfile.Profile()
    profiler.enable()
    for _ in range(TRACED):
        bench.update(batch)
    profiler.disable()
    found = []
    for (file, line, function), (_, calls, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        found.append({"name": place, "milliseconds": 1e3 * own / TRACED, "calls": calls / TRACED})
    found.sort(key=lambda function: -function["milliseconds"])
    total = sum(function["milliseconds"] for function in found)
    first = ", ".join(f"{each['name']} {each['milliseconds']:.1f} ms in {each['calls']:.0f} calls" for each in found[:4])
    return Row(
        f"{bench.title(size)}, where the host is", OK, f"{total:.0f} ms under the profiler; {first}", {"functions": found[: 2 * trace.TOP]}
    )


def plain_row(bench: Bench, plain: Any, size: int, ours: float) -> Row:
    """Time plain torch on a batch that is already on the device, and return a row that compares it with `ours`: the milliseconds of the
    engine."""
    batch = bench.batch(size).to(bench.device)
    for _ in range(WARM_UP):
        plain.run(batch, ema=True)
    milliseconds = bench.milliseconds(lambda: plain.run(batch, ema=True))
    seen = f"{milliseconds:.1f} ms; the engine takes {ours / milliseconds:.2f} times as long"
    return Row(f"{bench.title(size)}, plain torch", OK, seen, {"plain_milliseconds": milliseconds, "ratio": ours / milliseconds})


def summary_line(numbers: dict[str, Any]) -> str:
    """Return time, MFU, device utilisation and peak memory as one line for check.md. A second table there has the other numbers."""
    shares = {"MFU": numbers["mfu"], "device busy": numbers["busy_share"]}
    known = [f"{name} {value:.1%}" for name, value in shares.items() if value is not None]
    return ", ".join([f"{numbers['milliseconds']:.0f} ms", *known, f"peak {numbers['peak_memory_bytes'] / 2**30:.1f} GiB"])


def check_leaf_modules(context: Context) -> Iterator[Row]:
    """Measure an update in which ZeRO-3 gathers each transformer block at once (whole blocks are its leaf modules). Yields one row."""
    leaves = {"leaf_module": {"classes": ["model.layers.Block"]}}
    with open_bench(context, "text_base", leaves) as bench:
        row = measured(bench, 2 if context.is_tiny else LEAF_BATCH)
        yield replace(row, what=f"{row.what}, blocks as leaf modules")


def check_lengths(context: Context) -> Iterator[Row]:
    """Measure updates on speech crops of one length and of up to thirty lengths, since kernels are planned again at each new shape. Yields
    one row."""
    with open_bench(context, "speech_base") as bench:
        count, size = (3, 2) if context.is_tiny else (LENGTHS, 8)
        whole = bench.batch(size)
        spans = [round(16_000 * bench.length * (0.5 + 0.5 * number / count)) for number in range(1, count + 1)]
        batches = [cropped(whole, span, bench.recipe.frontend.num_frames(span)) for span in spans]
        mean = batches[count // 2]
        for _ in range(WARM_UP):
            bench.update(mean)
        same_length = bench.milliseconds(partial(bench.update, mean))
        new, deadline = [], time.monotonic() + LENGTH_SECONDS
        while len(new) < count and time.monotonic() < deadline:
            new.append(bench.milliseconds(partial(bench.update, batches[len(new)]), number=1))
        again = [bench.milliseconds(partial(bench.update, batch), number=1) for batch in batches[: len(new)]]
        numbers = {"one_length": same_length, "first_time": statistics.mean(new), "again": statistics.mean(again), "lengths": len(new)}
        seen = "one length {one_length:.0f} ms; {lengths} lengths, each for the first time {first_time:.0f} ms, again {again:.0f} ms"
        yield Row(f"{bench.recipe.name} micro {size}, crop lengths", OK, seen.format(**numbers), numbers)
