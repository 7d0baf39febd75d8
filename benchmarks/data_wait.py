"""Measures how long an update waits for its data: the loader of a base recipe, beside an update that only sleeps. What the worker
processes compute is printed as a share of the update too, since on a CPU it takes cores from the computation.

python benchmarks/data_wait.py --modality vision --photographs
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from accelerator.feeding import write_photographs
from recipes.catalog import RECIPES
from recipes.cluster.command import exit_code_of
from recipes.config import Recipe
from recipes.data.device_feed import DeviceFeed
from recipes.data.loader import HOST, UpdateLoader
from recipes.ds_config import BatchPlan
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.settings import apply_overrides
from recipes.train.loading import build_loader

BATCHES = {"text": 4, "speech": 2, "vision": 8}
STEP_SECONDS = 3.0
"""Less than an update of these batches takes on two CPU cores: 4 to 9 s, by processor and kernels."""
PHOTOGRAPHS = 256
SMALL = {"text": ("frontend.vocab_size=2000",), "speech": (), "vision": ()}
"""A tokenizer of 50,265 symbols needs more text than a sample has. It costs the loader nothing."""


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per figure. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="vision", choices=sorted(RECIPES))
    parser.add_argument("--data", help="folder, file or prepared folder (default: the shipped sample)")
    parser.add_argument("--photographs", action="store_true", help=f"images: {PHOTOGRAPHS} made JPEGs of 110 KB")
    parser.add_argument("--batch", type=int, help=f"samples of an update, one micro-batch (default: {BATCHES})")
    parser.add_argument("--step", type=float, default=STEP_SECONDS, help="seconds that an update sleeps")
    parser.add_argument("--updates", type=int, default=10, help="measured updates, after the first")
    parser.add_argument("--set", action="append", default=[], help="setting of the recipe, such as data.num_workers=0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.updates < 1:
        raise ConfigError(f"--updates {args.updates}: at least one update must be measured")
    args.batch = BATCHES[args.modality] if args.batch is None else args.batch
    with tempfile.TemporaryDirectory() as folder:
        if args.photographs:
            args.data = str(Path(folder) / "photographs")
            write_photographs(Path(args.data), PHOTOGRAPHS)
        result = measure(args, Path(folder))
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def asked_recipe(args: argparse.Namespace) -> Recipe:
    """Return the base recipe of the modality, with the data, the batch and the settings of the flags."""
    recipe = RECIPES[args.modality][f"{args.modality}_base"]()
    groups = {"group_size": args.batch} if recipe.data.group_size > 1 else {}
    data: Any = replace(recipe.data, **({"path": args.data} if args.data else {}), **groups)
    recipe = replace(recipe, data=data, run=replace(recipe.run, global_batch_size=args.batch))
    return apply_overrides(recipe, [*SMALL[args.modality], *args.set])


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepare the data, and run updates that sleep. Return the share of the time that they wait, and the cores that workers keep busy."""
    recipe, modality = asked_recipe(args), MODALITIES[args.modality]
    prepared = modality.prepare(recipe, folder / "prepared", progress=False, log=lambda line: None)
    dataset, _ = modality.open_data(recipe, prepared)
    loader = build_loader(
        recipe, dataset, BatchPlan(1, 1, 1, micro_batch_size=args.batch, accumulation_steps=1), 0, cores=len(os.sched_getaffinity(0))
    )
    feed, waits, starts = DeviceFeed(HOST), list[float](), list[float]()
    for update in range(args.updates + 1):
        if update == 1:
            starts = [time.perf_counter(), cpu_seconds(loader)]
        loaded = loader.batches(update)
        for _ in feed.batches([item.batch for item in loaded], lambda update=update: loader.first_of(update + 1)):
            time.sleep(args.step)
        waits.append(loader.wait_seconds)
    seconds, busy = time.perf_counter() - starts[0], cpu_seconds(loader) - starts[1]
    megabytes = sum(tensor.nbytes for tensor in loaded[0].batch.tensors()) / 1e6
    loader.close()
    return {
        "data": args.data or "the shipped sample",
        "samples": len(dataset),
        "update": f"{args.batch} samples, {megabytes:.1f} MB, {args.step:g} s",
        "workers": loader.num_workers,
        "first_wait_seconds": round(waits[0], 3),
        "wait_percent": 100 * sum(waits[1:]) / seconds,
        "longest_wait_milliseconds": 1e3 * max(waits[1:]),
        "median_wait_milliseconds": 1e3 * statistics.median(waits[1:]),
        "cpu_milliseconds_per_update": 1e3 * busy / args.updates,
        "load_average": os.getloadavg()[0],
    }


def cpu_seconds(loader: UpdateLoader) -> float:
    """Return the CPU time spent on data so far: that of the worker processes; without them that of this process, which else sleeps."""
    if not loader.worker_pids:
        return time.process_time()
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in loader.worker_pids)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
