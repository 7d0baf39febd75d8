"""Measures the time of one optimizer update and its share of the measured matmul peak, with the engines that training builds.

python benchmarks/step_time.py --modality text --size base --batch 4 --length 512 --dropout 0 --json
python benchmarks/step_time.py --size base --task classify --batch 16 --length 128 --plain --json
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from recipes.catalog import RECIPES
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.modalities.registry import MODALITIES
from recipes.plan.size import step_flops
from recipes.train.cli import default_ds_config

MATMUL_SIZE, MATMUL_REPEATS = 2048, 6
WARM_UP = 4  # updates after which the allocator has its blocks and page faults have stopped


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per figure. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="text", choices=sorted(RECIPES))
    parser.add_argument("--size", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--task", choices=list(TEXT_TASKS), help="fine-tune on this task of text instead of pre-training")
    parser.add_argument("--batch", type=int, default=4, help="samples of one micro-batch, which is the whole update")
    parser.add_argument("--length", type=int, help="tokens of a text (default 512), seconds of a recording (10)")
    parser.add_argument("--dropout", default="published", help='"published" (the recipe\'s) or a number for hidden and attention dropout')
    parser.add_argument("--deepspeed_config", type=Path, default=default_ds_config())
    parser.add_argument("--steps", type=int, default=5, help=f"measured updates, after {WARM_UP}")
    parser.add_argument("--plain", action="store_true", help="also time the same modules in plain torch, update by update in turn")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    args.length = MODALITIES[args.modality].benchmark_length if args.length is None else args.length
    quiet_libraries()
    result = measure(args)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def build_recipe(name: str, *, batch: int, length: int, dropout: str = "published") -> Recipe:
    """Return the recipe `name` with updates of `batch` samples of this `length`. `dropout`: the recipe's own ("published"), or a number
    for all kinds of dropout."""
    modality = name.partition("_")[0]
    recipe = MODALITIES[modality].resized(RECIPES[modality][name](), length)
    if dropout != "published":
        prob = float(dropout)
        block = replace(recipe.model.block, drop_path=prob, layerdrop=prob)
        recipe = replace(recipe, model=replace(recipe.model, hidden_dropout=prob, attention_dropout=prob, block=block))
    data = replace(recipe.data, **({"group_size": batch} if recipe.data.group_size > 1 else {}))
    return replace(recipe, data=data, run=replace(recipe.run, global_batch_size=batch))


def task_recipe(recipe: Recipe, task: str) -> Recipe:
    """Return the recipe that fine-tunes the network of `recipe` on a task of text with two classes. The dropouts are those of `recipe`."""
    made = text_recipe(task, TEXT_TASKS[task], recipe)
    objective = replace(made.objective, labels=("0", "1")) if hasattr(made.objective, "labels") else made.objective
    return replace(made, model=recipe.model, objective=objective, run=replace(made.run, global_batch_size=recipe.run.global_batch_size))


def random_batch(recipe: Recipe, size: int, length: int):
    """Return a micro-batch of `size` random samples, all of the same `length` (tokens of a text, seconds of a recording). In fine-tuning
    nothing is masked, and the targets are 0 and 1 in turn."""
    import numpy as np
    import torch

    from model.batch import Masks, Targets

    batch = MODALITIES[recipe.modality].random_batch(recipe, size, length, np.random.default_rng(0))
    if not recipe.finetune.task:
        return batch
    values = torch.arange(size) % 2
    values = values if recipe.objective.kind == "classify" else values.float()
    masks = Masks.of(torch.zeros_like(batch.masks.mask_BS))
    return replace(batch, inputs=batch.clean_inputs, masks=masks, targets=Targets(values, torch.arange(size)))


def asked_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe that the flags ask for."""
    recipe = build_recipe(f"{args.modality}_{args.size}", batch=args.batch, length=args.length, dropout=args.dropout)
    return task_recipe(recipe, args.task) if args.task else recipe


def measure(args: argparse.Namespace) -> dict:
    """Build the engines, and return the median time of whole updates and of their parts. The matmul peak is measured between updates in
    the same process."""
    import torch

    from model.parallel import init_parallel
    from plain_step import plain_step_of
    from recipes.cluster.world import join_world, leave_world
    from recipes.objectives.registry import build_objective
    from recipes.train.guard import UpdateGuard
    from recipes.train.memory import peak_memory_bytes
    from recipes.train.metrics import device_peak_flops
    from recipes.train.spikes import SpikeStatistic

    recipe = asked_recipe(args)
    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": args.batch}
    config = resolve(recipe, content, str(args.deepspeed_config), 1)
    world = join_world()
    objective = build_objective(recipe, config, init_parallel(1, world.device.type))
    device = world.device
    batch = random_batch(recipe, args.batch, args.length).to(device)
    plain = plain_step_of(recipe, objective.parallel) if args.plain else None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    spikes = SpikeStatistic(recipe.guard)
    spikes.load(dict.fromkeys(spikes.state(), [1e6] * recipe.guard.spike_window))  # a full window, as later in a run
    peak, splits, totals, plain_totals = 0.0, [], [], []
    for number in range(args.steps + WARM_UP):
        split = timed_step(objective, batch, UpdateGuard(objective.student, objective.parallel, recipe.guard, world, spikes))
        plain_seconds = plain.run(batch, ema=False) if plain else None
        peak = max(peak, matmul_flops(dtype, device))
        if number >= WARM_UP:
            splits.append(split)
            totals.append(sum(split.values()))
            plain_totals.append(plain_seconds)
    seconds = statistics.median(totals)
    flops = step_flops(recipe, batch.num_tokens, args.batch)
    device_peak = device_peak_flops(device)
    result = {
        "step_milliseconds": seconds * 1e3,
        "best_step_milliseconds": min(totals) * 1e3,
        "matmul_peak_tflops": peak / 1e12,
        "percent_of_matmul_peak": 100 * flops / seconds / peak,
        "best_percent_of_matmul_peak": 100 * flops / min(totals) / peak,
        "mfu": flops / seconds / device_peak if device_peak else None,
        "split_milliseconds": {name: statistics.median(s[name] for s in splits) * 1e3 for name in splits[0]},
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": config.precision,
        "versions": {name: metadata.version(name) for name in ("torch", "deepspeed", "megatron-core")},
    }
    leave_world()
    return result | (plain_figures(splits, plain_totals) if plain else {})


def plain_figures(splits: list[dict[str, float]], plain_totals: list[float]) -> dict[str, float]:
    """Return the median milliseconds of an update in plain torch without EMA (`plain_totals`: seconds), and the median ratios to it: of the
    engine's time without EMA and guard (`splits`), and of the whole update."""
    pairs = list(zip(splits, plain_totals, strict=True))
    engine = [(sum(split.values()) - split["after_step"] - split["guard"]) / theirs for split, theirs in pairs]
    whole = [sum(split.values()) / theirs for split, theirs in pairs]
    return {
        "plain_step_milliseconds": statistics.median(plain_totals) * 1e3,
        "engine_over_plain": statistics.median(engine),
        "update_over_plain": statistics.median(whole),
    }


def timed_step(objective, batch, guard, *, waits: bool = True) -> dict[str, float]:
    """Run one update, and return the seconds of each part: the forward of each engine, the objective's own work (`loss`), backward, guard,
    optimizer and the rest.

    `waits`: synchronise with the CUDA device after each part. Without it the host runs ahead, as in training, and the seconds are those of
    the host.
    """
    import torch

    from recipes.engine.update import backward, step

    seconds: dict[str, float] = {}
    is_cuda = torch.device(objective.student.device).type == "cuda"

    def clock(name: str, job: Callable):
        start = time.perf_counter()
        out = job()
        if is_cuda and waits:
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        return out

    total = objective.count(batch)
    with timed_forwards(objective, clock):
        outcome = clock("loss", lambda: objective.forward(batch, total))
    seconds["loss"] -= sum(value for name, value in seconds.items() if name != "loss")
    clock("backward", lambda: backward(objective.student, outcome.loss, total, objective.parallel.dp_size))
    guard.note(outcome.loss)
    health = clock("guard", lambda: guard.judge(total))
    assert guard.refusal(health) is None, health
    clock("optimizer", lambda: step(objective.student))
    guard.confirm(health)
    clock("after_step", lambda: objective.after_step(1))
    return seconds


@contextmanager
def timed_forwards(objective, clock: Callable):
    """In this block every forward of an engine of the objective is run by `clock(name, job)`. The name is that of the attribute with
    `_forward`, such as student_forward."""
    from recipes.engine.build import Engine

    engines = {name: engine for name, engine in vars(objective).items() if isinstance(engine, Engine)}
    for name, engine in engines.items():
        forward = engine.forward
        engine.forward = lambda *args, name=name, forward=forward: clock(f"{name}_forward", lambda: forward(*args))
    try:
        yield
    finally:
        for engine in engines.values():
            del engine.forward  # restores the method of the class


def matmul_flops(dtype, device) -> float:
    """Return the highest rate of a few products of 2048 x 2048 matrices, in FLOP/s."""
    import torch

    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device).to(dtype)
    best = float("inf")
    for _ in range(MATMUL_REPEATS):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * MATMUL_SIZE**3 / best


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
