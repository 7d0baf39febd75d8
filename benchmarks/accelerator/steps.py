"""What an update costs there: time, share of the peak, how busy the device is, what the host waits for, memory; beside plain torch."""

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import plain_step
import step_time
from accelerator import trace
from accelerator.batches import cropped
from accelerator.joined import joined, release
from accelerator.result import CANNOT, OK, Row
from accelerator.worker import Context
from model.batch import Batch
from model.parallel import Parallel
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.modalities.registry import MODALITIES
from recipes.objectives.registry import build_objective
from recipes.plan.size import step_flops
from recipes.train.cli import ROOT
from recipes.train.guard import UpdateGuard
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
    """One engine of a recipe, and updates of it on random batches that come from the host, as in training."""

    def __init__(self, context: Context, name: str, zero: dict[str, Any], world: World, parallel: Parallel) -> None:
        """Build it for samples of the recipe's length; `zero`: more zero_optimization keys, past our checks."""
        modality, size = name.split("_")
        self.modality = MODALITIES[modality]
        self.length = TINY_LENGTH[modality] if context.is_tiny else SECONDS_OF_SPEECH.get(name, self.modality.benchmark_length)
        args = argparse.Namespace(
            modality=modality, size="tiny" if context.is_tiny else size, batch=1, length=self.length, dropout="published"
        )
        self.recipe: Recipe = step_time.build_recipe(args)
        path = ROOT / "ds_configs" / "zero3_bf16.json"
        config = resolve(self.recipe, load_ds_config(path) | {"train_micro_batch_size_per_gpu": 1}, str(path), 1)
        config.deepspeed["zero_optimization"].update(zero)
        self.world, self.device = world, world.device
        self.objective: Any = build_objective(self.recipe, config, parallel)
        self._spikes = SpikeStatistic(self.recipe.guard)
        self._number = 0

    def batch(self, size: int) -> Batch:
        """Random samples, on the host."""
        return self.modality.random_batch(self.recipe, size, self.length, np.random.default_rng(0))

    def title(self, size: int) -> str:
        """A micro-batch in words."""
        return f"{self.recipe.name} micro {size}" + (f" x {self.length}" if self.length else "")

    def update(self, batch: Batch) -> dict[str, float]:
        """One update as the loop makes it; the host's seconds for its parts."""
        guard = UpdateGuard(self.objective.student, self.objective.parallel, self.recipe.guard, self.world, self._spikes)
        self.objective.stream.update, self._number = self._number, self._number + 1
        return step_time.timed_step(self.objective, batch.to(self.device), guard, waits=False)

    def milliseconds(self, update: Callable[[], object], number: int = TIMED) -> float:
        """Median of so many updates, each from an idle device to an idle device."""
        seconds = []
        for _ in range(number):
            self.wait()
            start = time.perf_counter()
            update()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return 1e3 * statistics.median(seconds)

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def plain(self) -> "plain_step.PlainStep":
        """The same modules in plain torch, all of them in bf16."""
        return plain_step.PlainStep(self.recipe, self.objective.parallel, device=self.device, dtype=torch.bfloat16)


@contextmanager
def bench(context: Context, name: str, zero: dict[str, Any] | None = None) -> Iterator[Bench]:
    """A Bench in a world of its own."""
    with joined() as (world, parallel):
        yield Bench(context, name, zero or {}, world, parallel)


def check_step(context: Context, name: str) -> Iterator[Row]:
    """Each micro-batch that fits, by the engine; for the base sizes then the same in plain torch."""
    with bench(context, name) as one:
        sizes = (2,) if context.is_tiny else MICRO_BATCHES[name]
        found: dict[int, float] = {}
        for size in sizes:
            row = unless_too_large(partial(measured, one, size), one.title(size))
            found |= {size: row.numbers["milliseconds"]} if row.numbers else {}
            yield row
        if name.endswith("_large"):
            return  # plain torch takes as long to build again
        yield where_it_waits(one, sizes[0])
        yield where_the_host_is(one, sizes[0])
        plain = one.plain()
        for size, ours in found.items():
            yield unless_too_large(partial(beside, one, plain, size, ours), f"{one.title(size)}, plain torch")


def unless_too_large(measure: Callable[[], Row], what: str) -> Row:
    """Its row, or that it does not fit into the device's memory."""
    try:
        return measure()
    except torch.OutOfMemoryError as error:
        release()
        return Row(what, CANNOT, f"does not fit: {str(error).split('.')[0]}")


def measured(one: Bench, size: int) -> Row:
    """Time without a profiler first, then a trace of a few updates."""
    batch = one.batch(size)
    if one.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        one.update(batch)
    milliseconds = one.milliseconds(lambda: one.update(batch))
    peak, peak_flops = step_time.peak_memory(one.device), device_peak_flops(one.device)
    flops = step_flops(one.recipe, batch.num_tokens, size)
    parts = [one.update(batch) for _ in range(TRACED)]
    numbers = {
        "milliseconds": milliseconds,
        "host_milliseconds": {name: 1e3 * statistics.median(part[name] for part in parts) for name in parts[0]},
        "mfu": flops / (milliseconds / 1e3) / peak_flops if peak_flops else None,
        "thousand_tokens_per_second": batch.num_tokens / milliseconds,
        "peak_memory_bytes": peak,
        **trace.traced(lambda: one.update(batch), one.wait, TRACED),
    }
    numbers["busy_share"] = numbers["busy_milliseconds"] / milliseconds if one.device.type == "cuda" else None
    return Row(one.title(size), OK, in_words(numbers), numbers)


def where_it_waits(one: Bench, size: int) -> Row:
    """The lines of code at which the host waits for the device in an update."""
    what = f"{one.title(size)}, where the host waits"
    if one.device.type == "cpu":
        return Row(what, CANNOT, "the host is the device here")
    places = trace.waiting_places(lambda: one.update(one.batch(size)))
    seen = ", ".join(f"{place} {count} times" for place, count in places.items()) or "nowhere"
    return Row(what, OK, seen, {"places": places})


def where_the_host_is(one: Bench, size: int) -> Row:
    """The functions of Python that take longest in an update, under Python's own profiler, which makes small ones look larger."""
    batch, profiler = one.batch(size), cProfile.Profile()
    profiler.enable()
    for _ in range(TRACED):
        one.update(batch)
    profiler.disable()
    found = []
    for (file, line, function), (_, calls, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        place = f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        found.append({"name": place, "milliseconds": 1e3 * own / TRACED, "calls": calls / TRACED})
    found.sort(key=lambda one: -one["milliseconds"])
    total = sum(one["milliseconds"] for one in found)
    first = ", ".join(f"{one['name']} {one['milliseconds']:.1f} ms in {one['calls']:.0f} calls" for one in found[:4])
    return Row(
        f"{one.title(size)}, where the host is", OK, f"{total:.0f} ms under the profiler; {first}", {"functions": found[: 2 * trace.TOP]}
    )


def beside(one: Bench, plain: plain_step.PlainStep, size: int, ours: float) -> Row:
    """Plain torch on the same batch, which is on the device already."""
    batch = one.batch(size).to(one.device)
    for _ in range(WARM_UP):
        plain.run(batch, ema=True)
    milliseconds = one.milliseconds(lambda: plain.run(batch, ema=True))
    seen = f"{milliseconds:.1f} ms; the engine takes {ours / milliseconds:.2f} times as long"
    return Row(f"{one.title(size)}, plain torch", OK, seen, {"plain_milliseconds": milliseconds, "ratio": ours / milliseconds})


def in_words(numbers: dict[str, Any]) -> str:
    """The row for the table; check.md has another one with the rest."""
    shares = {"MFU": numbers["mfu"], "device busy": numbers["busy_share"]}
    known = [f"{name} {value:.1%}" for name, value in shares.items() if value is not None]
    return ", ".join([f"{numbers['milliseconds']:.0f} ms", *known, f"peak {numbers['peak_memory_bytes'] / 2**30:.1f} GiB"])


def check_leaf_modules(context: Context) -> Iterator[Row]:
    """What a coarser granularity of ZeRO-3 would save: whole blocks are gathered by one hook each."""
    leaves = {"leaf_module": {"classes": ["model.layers.Block"]}}
    with bench(context, "text_base", leaves) as one:
        row = measured(one, 2 if context.is_tiny else LEAF_BATCH)
        yield replace(row, what=f"{row.what}, blocks as leaf modules")


def check_lengths(context: Context) -> Iterator[Row]:
    """Speech whose crops all have one length against crops of thirty lengths: kernels that are planned for each new shape."""
    with bench(context, "speech_base") as one:
        count, size = (3, 2) if context.is_tiny else (LENGTHS, 8)
        whole = one.batch(size)
        spans = [round(16_000 * one.length * (0.5 + 0.5 * number / count)) for number in range(1, count + 1)]
        batches = [cropped(whole, span, one.recipe.frontend.num_frames(span)) for span in spans]
        mean = batches[count // 2]
        for _ in range(WARM_UP):
            one.update(mean)
        alike = one.milliseconds(partial(one.update, mean))
        new, deadline = [], time.monotonic() + LENGTH_SECONDS
        while len(new) < count and time.monotonic() < deadline:
            new.append(one.milliseconds(partial(one.update, batches[len(new)]), number=1))
        again = [one.milliseconds(partial(one.update, batch), number=1) for batch in batches[: len(new)]]
        numbers = {"alike": alike, "new": statistics.mean(new), "again": statistics.mean(again), "lengths": len(new)}
        seen = "an update of one length {alike:.0f} ms; of {lengths} lengths, each for the first time {new:.0f} ms, again {again:.0f} ms"
        yield Row(f"{one.recipe.name} micro {size}, crop lengths", OK, seen.format(**numbers), numbers)
