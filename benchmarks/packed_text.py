"""Measures how many tokens that are not padding an update of text processes each second, with padded and with packed rows
(data.packing), in turn in one process. The documents are made up: random tokens, with log-normal lengths.

python benchmarks/packed_text.py --recipe text_base --batch 4 --pairs 9 --json
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recipes.catalog import RECIPES
from recipes.check import check_recipe
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.modalities.registry import MODALITIES
from recipes.settings import apply_overrides
from recipes.train.cli import default_ds_config

PACKINGS = ("padded", "documents")
WARM_UP = 2
"""Updates of each kind that are not counted."""
MEAN, SIGMA = 600.0, 1.0
"""Mean tokens of a document, and the standard deviation of the logarithm of its tokens. Wikipedia's articles are about so long."""


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per figure. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="text_base", choices=sorted(RECIPES["text"]))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe")
    parser.add_argument("--deepspeed_config", type=Path, default=default_ds_config())
    parser.add_argument("--batch", type=int, default=4, help="rows of one micro-batch, which is the whole update")
    parser.add_argument("--pairs", type=int, default=9, help=f"measured updates of each kind, after {WARM_UP}")
    parser.add_argument("--documents", type=int, default=10_000, help="documents of the made-up text")
    parser.add_argument("--mean", type=float, default=MEAN, help="mean tokens of a document")
    parser.add_argument("--sigma", type=float, default=SIGMA, help="standard deviation of the logarithm of its tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    quiet_libraries()
    recipe = apply_overrides(RECIPES["text"][args.recipe](), [*args.set, f"run.global_batch_size={args.batch}"])
    with tempfile.TemporaryDirectory(prefix="packed_text_") as folder:
        write_documents(Path(folder), recipe, document_lengths(args.documents, args.mean, args.sigma))
        result = {"mean_tokens": args.mean, "sigma": args.sigma} | measure(recipe, Path(folder), args)
    print(json.dumps(result) if args.json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    sys.stdout.flush()
    return 0


def document_lengths(count: int, mean: float, sigma: float) -> np.ndarray:
    """Return log-normal numbers of tokens, at least 1. Shapes: (count,)."""
    lengths = np.random.default_rng(0).lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.maximum(1, np.rint(lengths)).astype(np.int64)


def write_documents(folder: Path, recipe: Any, lengths: np.ndarray) -> None:
    """Write a prepared folder with documents of these lengths, each of one paragraph, so that a long one is cut every sequence_length - 1
    tokens. Every tenth of the text is held out. The tokens are random, and there is no tokenizer."""
    from model.masking import NUM_SPECIAL_TOKENS
    from recipes.data import shards
    from recipes.data.packing import Boundaries, build_samples

    vocab_size, dtype = recipe.frontend.vocab_size, np.dtype(np.uint32)
    writer = shards.ShardWriter(folder, dtype)
    tokens = np.random.default_rng(1).integers(NUM_SPECIAL_TOKENS, vocab_size - 1, int(lengths.sum()))
    writer.append(np.arange(len(lengths)), lengths, tokens)
    writer.finish()
    ends = np.cumsum(lengths)
    data = replace(recipe.data, heldout_fraction=0.1)
    samples = build_samples(
        Boundaries(ends, ends), sequence_length=data.sequence_length, break_mode=data.break_mode, heldout_fraction=data.heldout_fraction
    )
    counts = writer.counts | {f"{split}_samples": len(rows_N2) for split, rows_N2 in samples.items()}
    for split, rows_N2 in samples.items():
        np.save(folder / f"{split}.npy", rows_N2)
    (folder / shards.MODEL).write_bytes(b"")
    shards.save_prepared(folder, shards.Prepared(shards.FORMAT_VERSION, "", "", "", vocab_size, dtype.name, counts, asdict(data)))


def measure(recipe: Recipe, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Build the engines that training builds, run updates of both kinds in turn, and return the figures of each and their ratio."""
    import torch

    from model.parallel import init_parallel
    from recipes.cluster.world import join_world, leave_world
    from recipes.objectives.registry import build_objective
    from recipes.train.memory import peak_memory_bytes

    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": args.batch}
    config = resolve(recipe, content, str(args.deepspeed_config), 1)
    world = join_world()
    objective = build_objective(recipe, config, init_parallel(1, world.device.type))
    batches, shares = zip(*(open_batches(recipe, folder, packing) for packing in PACKINGS), strict=True)
    measured: dict[str, list[tuple[float, float]]] = {packing: [] for packing in PACKINGS}
    for pair in islice(zip(*batches, strict=True), args.pairs + WARM_UP):
        for packing, batch in zip(PACKINGS, pair, strict=True):
            measured[packing].append(timed_update(objective, batch.to(world.device)))
    result = figures(measured, dict(zip(PACKINGS, shares, strict=True)), args.batch * recipe.data.sequence_length) | {  # type: ignore[attr-defined]
        "pairs": args.pairs,
        "peak_memory_bytes": peak_memory_bytes(world.device),
        "device": torch.cuda.get_device_name() if world.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": config.precision,
        "versions": {name: metadata.version(name) for name in ("torch", "deepspeed", "megatron-core")},
    }
    leave_world()
    return result


def figures(measured: dict[str, list[tuple[float, float]]], shares: dict[str, float], positions: int) -> dict[str, Any]:
    """Return medians and ratios of the updates after the first WARM_UP. `measured`: seconds and processor seconds of each update. `shares`:
    share of its `positions` that are no padding. Other work on the machine changes the processor seconds less than the seconds."""
    times = {packing: np.array(rows[WARM_UP:]) for packing, rows in measured.items()}
    rates = {packing: shares[packing] * positions / float(np.median(found[:, 0])) for packing, found in times.items()}
    padded, packed = (times[packing] for packing in PACKINGS)
    of_pairs = np.median(padded / packed, axis=0) * shares["documents"] / shares["padded"]
    return {
        "real_tokens_share": shares,
        "step_milliseconds": {packing: float(np.median(found[:, 0])) * 1e3 for packing, found in times.items()},
        "real_tokens_per_second": rates,
        "ratio": rates["documents"] / rates["padded"],
        "ratio_of_pairs": float(of_pairs[0]),
        "processor_time_ratio_of_pairs": float(of_pairs[1]),
    }


def open_batches(recipe: Recipe, folder: Path, packing: str):
    """Return an endless iterator over the batches of training with this data.packing, and the share of the positions of an epoch that are
    no padding."""
    from recipes.data.loader import build_batch, micro_batches
    from recipes.data.order import UpdateOrder

    asked = apply_overrides(recipe, [f"data.packing={packing}"])
    check_recipe(asked)
    train, _ = MODALITIES["text"].open_data(asked, folder)
    size = recipe.run.global_batch_size
    order = UpdateOrder(train, seed=recipe.run.seed, global_batch_size=size, group_size=1)
    real = int((np.load(folder / "train.npy")[:, 1] + 1).sum())
    batches = (build_batch(train, positions) for positions in micro_batches(order, slice(0, size), size, 0))
    return batches, real / (len(train) * recipe.data.sequence_length)  # type: ignore[attr-defined]


def timed_update(objective, batch) -> tuple[float, float]:
    """Run one update: forward of student and teacher, backward, optimizer, EMA. Return its seconds, and those of all processors."""
    import torch

    from recipes.engine.update import backward, step

    is_cuda = torch.device(objective.student.device).type == "cuda"
    start, processors = time.perf_counter(), time.process_time()
    total = objective.count(batch)
    backward(objective.student, objective.forward(batch, total).loss, total, objective.parallel.dp_size)
    step(objective.student)
    objective.after_step(1)
    if is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processors


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
