"""Measure host milliseconds and collectives of one update on many ranks, in one process: the engines that training builds, on a fake
process group that sends nothing, compared with the same modules in plain torch. The model has the recipe's number of layers, but narrow
ones, so that the time is Python's and not the matrix products'.
launch/plan.py estimates updates with this host time.

python benchmarks/host_time.py --recipe text_base --deepspeed_config ds_configs/zero3_bf16.json --world 64 --json
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.settings import apply_overrides

WIDTH, HEADS, VOCABULARY = 64, 4, 4096
LENGTH = {"text": 32, "speech": 1, "vision": 0}
UPDATES, WARM_UP = 6, 2
"""Number of timed updates, and how many of them are left out at the beginning. The fastest of the others counts."""
BUCKETS = {"reduce_bucket_size": 5e8, "stage3_prefetch_bucket_size": 5e7}
"""DeepSpeed's default bucket sizes, which are reduced in the same ratio as the matrices."""


def main() -> int:
    """Parse the flags, measure, print one JSON object or one line per figure, and end the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="text_base", choices=sorted(name for recipes in RECIPES.values() for name in recipes))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a number of the recipe")
    parser.add_argument("--deepspeed_config", type=Path, default=ROOT / "ds_configs" / "zero3_bf16.json")
    parser.add_argument("--world", type=int, default=64, help="data-parallel ranks to count for, of which this process is the first")
    parser.add_argument("--micro-batches", type=int, default=1, help="per update, of one sample each")
    parser.add_argument("--full-width", action="store_true", help="the recipe's own widths and lengths: slow, and products count too")
    parser.add_argument("--zero", type=json.loads, default={}, metavar="JSON", help="more zero_optimization keys, past our checks")
    parser.add_argument("--teacher-gather", default="update", choices=("update", "layer"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.world < 1 or args.micro_batches < 1:
        raise ConfigError(f"--world {args.world} --micro-batches {args.micro_batches}: both must be at least 1")
    quiet_libraries()
    result = measure(args)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
    sys.stdout.flush()
    os._exit(0)  # a fake process group cannot be destroyed


def narrowed(recipe: Recipe, zero: dict[str, Any]) -> Recipe:
    """Return the recipe with the same layers at the hidden size WIDTH. Changes `zero` (zero_optimization keys): DeepSpeed's buckets become
    smaller in the same ratio as the matrices."""
    factor = (recipe.model.hidden_size / WIDTH) ** 2
    for key, default in BUCKETS.items():
        zero[key] = int(zero.get(key, default) / factor)
    zero.setdefault("stage3_param_persistence_threshold", 1000)
    model = replace(recipe.model, hidden_size=WIDTH, ffn_hidden_size=4 * WIDTH, num_attention_heads=HEADS)
    frontend = recipe.frontend
    if hasattr(frontend, "vocab_size"):
        frontend = replace(frontend, vocab_size=VOCABULARY)
    return replace(recipe, model=model, frontend=frontend)


class Phases:
    """Milliseconds of process time of the phases of one update. A phase inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._inner = [0.0]

    def time(self, name: str, job: Callable[[], Any]) -> Any:
        """Call `job`, add its process time, without that of phases inside it, to the phase `name`, and return its result."""
        self._inner.append(0.0)
        start = time.process_time()
        result = job()
        taken = 1e3 * (time.process_time() - start)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + taken - self._inner.pop()
        self._inner[-1] += taken
        return result


class CountedPhases:
    """Collectives of the phases of one update, by kind, and how often the host waits for a number of the device."""

    def __init__(self) -> None:
        self.phases: dict[str, Any] = {}
        self._open: list[Any] = []

    def time(self, name: str, job: Callable[[], Any]) -> Any:
        """Call `job`, add what it starts outside of inner phases to the phase `name`, and return its result."""
        from fake_ranks import Counted

        seen = self.phases.setdefault(name, Counted())
        for outer in self._open[-1:]:
            outer.is_paused = True
        self._open.append(seen)
        with seen:
            result = job()
        self._open.pop()
        for outer in self._open[-1:]:
            outer.is_paused = False
        return result

    def shown(self) -> dict[str, dict[str, float]]:
        """Return phase -> number and megabytes of the collectives of each kind, and the waits, where there are any."""
        result = {}
        for name, seen in self.phases.items():
            counts = {kind: 0.0 for kind, _ in seen.counts}
            for (kind, _), number in seen.counts.items():
                counts[kind] += number
            for (kind, _), num_bytes in seen.num_bytes.items():
                counts[f"{kind} megabytes"] = counts.get(f"{kind} megabytes", 0.0) + num_bytes / 1e6
            result[name] = counts | ({"waits": seen.waits} if seen.waits else {})
        return result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Build the engines as rank 0 of args.world ranks on a fake process group, and return the host time and collectives of an update on
    random data."""
    import numpy as np
    import torch.distributed as dist

    from fake_ranks import Counted, fake_parallel, join_fake_world
    from model.parallel import Parallel
    from plain_step import PlainStep
    from recipes.objectives.registry import build_objective

    join_fake_world(args.world)
    modality = next(name for name, recipes in RECIPES.items() if args.recipe in recipes)
    recipe, config = settings(args, modality)
    parallel, start = fake_parallel(config.batch), time.perf_counter()
    with Counted() as building:
        objective = build_objective(recipe, config, parallel)
    built = {"build_seconds": time.perf_counter() - start, "build_collectives": building.counts.total()}
    length = MODALITIES[modality].benchmark_length if args.full_width else LENGTH[modality]
    batch = MODALITIES[modality].random_batch(recipe, 1, length, np.random.default_rng(0))
    alone = dist.new_group([0])
    plain = PlainStep(recipe, Parallel(alone, alone, 1, 0, 1, 0))
    first, counted = CountedPhases(), CountedPhases()
    update(objective, batch, 0, args.micro_batches, first)
    updates, plains = [], []
    for number in range(1, UPDATES + 1):
        updates.append(update(objective, batch, number, args.micro_batches, Phases()))
        plains.append(1e3 * plain.run(batch, ema=True, clock=time.process_time))
    update(objective, batch, UPDATES + 1, args.micro_batches, counted)
    best = {name: min(one.milliseconds[name] for one in updates[WARM_UP:]) for name in updates[-1].milliseconds}
    total, plain_milliseconds = sum(best.values()), min(plains[WARM_UP:])
    return {
        "recipe": args.recipe,
        "world": args.world,
        "width": recipe.model.hidden_size,
        "parameters": sum(1 for _ in objective.student.module.parameters()),
        "modules": sum(1 for _ in objective.student.module.modules()),
        "host_milliseconds": best | {"total": total},
        "plain_milliseconds": plain_milliseconds,
        **({"host_over_plain": total / plain_milliseconds} if args.micro_batches == 1 else {}),
        "collectives": counted.shown(),
        "first_update": first.shown(),
        **built,
    }


def settings(args: argparse.Namespace, modality: str) -> tuple[Recipe, Any]:
    """Return recipe and ds_config for the flags: one sample per micro-batch, args.micro_batches micro-batches per update."""
    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": 1}
    recipe = apply_overrides(RECIPES[modality][args.recipe](), args.set)
    recipe = recipe if args.full_width else narrowed(recipe, content.setdefault("zero_optimization", {"stage": 3}))
    length = MODALITIES[modality].benchmark_length if args.full_width else LENGTH[modality]
    recipe = MODALITIES[modality].resized(recipe, length)
    data = replace(recipe.data, **({"group_size": 1} if recipe.data.group_size > 1 else {}))
    recipe = replace(recipe, data=data, run=replace(recipe.run, global_batch_size=args.world * args.micro_batches))
    config = resolve(recipe, content, str(args.deepspeed_config), args.world)
    config.deepspeed["zero_optimization"].update(args.zero)
    return recipe, replace(config, gathers_once=args.teacher_gather == "update")


def update(objective: Any, batch: Any, number: int, micro_batches: int, phases: Any) -> Any:
    """Run update `number` like the training loop, with each part in phases.time(), and return `phases`. The guard's collective on the host
    is left out."""
    import torch

    from recipes.engine import shards
    from recipes.engine.update import add_up_replicas, backward
    from timed_update import timed_forwards

    student, total, parallel = objective.student, objective.count(batch), objective.parallel
    for micro_batch in range(micro_batches):
        if micro_batch:
            phases.time("count micro-batch", student.step)
        objective.stream.update, objective.stream.micro_batch = number, micro_batch
        with timed_forwards(objective, phases.time):
            outcome = phases.time("loss and gather", lambda: objective.forward(batch, total))
        loss = torch.nan_to_num(outcome.loss) * 1e-3  # the fake group gathers arbitrary weights, so the loss may be NaN
        phases.time("backward", lambda loss=loss: backward(student, loss, total, parallel.shard_size))
    phases.time("sum of replicas", lambda: add_up_replicas(student, parallel))
    parameters = [parameter for _, parameter in shards.trained_parameters(student)]
    phases.time("gradient norm", lambda: shards.gradient_square(student, parameters))
    phases.time("optimizer", student.step)
    phases.time("after step", lambda: objective.after_step(number + 1))
    return phases


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
