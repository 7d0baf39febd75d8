"""How long one optimizer update takes, as a share of what the matrix units can do, on exactly what training builds.

python benchmarks/step_time.py --modality text --size base --batch 4 --length 512 --dropout 0 --json
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from batches import DEFAULT_LENGTH, random_batch, sized

from recipes.catalog import RECIPES
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.plan.size import step_flops
from recipes.train.cli import default_ds_config

MATMUL_SIZE, MATMUL_REPEATS = 2048, 6
WARM_UP = 4  # updates until the allocator has the blocks it needs and page faults have ceased


def main() -> int:
    """Parse, measure, print one JSON object or a few lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="text", choices=sorted(RECIPES))
    parser.add_argument("--size", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--batch", type=int, default=4, help="samples of one micro-batch, which is the whole update")
    parser.add_argument("--length", type=int, help="tokens of a text (default 512), seconds of a recording (10)")
    parser.add_argument("--dropout", default="published", help='"published" (the recipe\'s) or a number for hidden and attention dropout')
    parser.add_argument("--deepspeed_config", type=Path, default=default_ds_config())
    parser.add_argument("--steps", type=int, default=5, help=f"measured updates, after {WARM_UP}")
    parser.add_argument("--plain", action="store_true", help="also time the same modules in plain torch, update by update in turn")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    args.length = DEFAULT_LENGTH[args.modality] if args.length is None else args.length
    quiet_libraries()
    result = measure(args)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def build_recipe(args: argparse.Namespace) -> Recipe:
    """The named recipe at this batch, length and dropout."""
    recipe = sized(RECIPES[args.modality][f"{args.modality}_{args.size}"](), args.length)
    if args.dropout != "published":
        prob = float(args.dropout)
        block = replace(recipe.model.block, drop_path=prob, layerdrop=prob)
        recipe = replace(recipe, model=replace(recipe.model, hidden_dropout=prob, attention_dropout=prob, block=block))
    data = replace(recipe.data, **({"group_size": args.batch} if recipe.data.group_size > 1 else {}))
    return replace(recipe, data=data, run=replace(recipe.run, global_batch_size=args.batch))


def measure(args: argparse.Namespace) -> dict:
    """Build, warm up, and time whole updates and their parts; the matmul peak is taken between them in the same process."""
    import torch

    from model.parallel import init_parallel
    from recipes.cluster.world import join_world, leave_world
    from recipes.engine.build import build_engines
    from recipes.train.guard import UpdateGuard
    from recipes.train.metrics import device_peak_flops
    from recipes.train.spikes import SpikeStatistic

    recipe = build_recipe(args)
    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": args.batch}
    config = resolve(recipe, content, str(args.deepspeed_config), 1)
    world = join_world()
    engines = build_engines(recipe, config, init_parallel(1, world.device.type))
    batch = random_batch(recipe, args.batch, args.length).to(engines.device)
    plain = PlainStep(recipe, engines.parallel, args.batch) if args.plain else None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    spikes = SpikeStatistic(recipe.guard)
    spikes.load(dict.fromkeys(spikes.state(), [1e6] * recipe.guard.spike_window))  # full, as later in a run
    peak, splits, totals, plain_totals = 0.0, [], [], []
    for number in range(args.steps + WARM_UP):
        split = timed_step(engines, batch, recipe, UpdateGuard(engines, recipe.guard, world, spikes))
        plain_seconds = plain.run(batch) if plain else None
        peak = max(peak, matmul_flops(dtype, engines.device))
        if number >= WARM_UP:
            splits.append(split)
            totals.append(sum(split.values()))
            plain_totals.append(plain_seconds)
    seconds = statistics.median(totals)
    flops = step_flops(recipe, batch.num_tokens, args.batch)
    device_peak = device_peak_flops(engines.device)
    result = {
        "step_milliseconds": seconds * 1e3,
        "best_step_milliseconds": min(totals) * 1e3,
        "matmul_peak_tflops": peak / 1e12,
        "percent_of_matmul_peak": 100 * flops / seconds / peak,
        "best_percent_of_matmul_peak": 100 * flops / min(totals) / peak,
        "mfu": flops / seconds / device_peak if device_peak else None,
        "split_milliseconds": {name: statistics.median(s[name] for s in splits) * 1e3 for name in splits[0]},
        "peak_memory_bytes": peak_memory(engines.device),
        "device": torch.cuda.get_device_name() if engines.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": config.precision,
        "versions": {name: metadata.version(name) for name in ("torch", "deepspeed", "megatron-core")},
    }
    if plain:  # it has neither EMA nor guard
        ratios = [(sum(s.values()) - s["ema"] - s["guard"]) / theirs for s, theirs in zip(splits, plain_totals, strict=True)]
        result |= {"plain_step_milliseconds": statistics.median(plain_totals) * 1e3, "engine_over_plain": statistics.median(ratios)}
    leave_world()
    return result


def timed_step(engines, batch, recipe: Recipe, guard) -> dict[str, float]:
    """Seconds of each part of one update."""
    import torch

    from model.loss import regression_loss
    from model.student import take_masked
    from recipes.objectives import data2vec as objective

    seconds: dict[str, float] = {}

    def clock(name: str, job: Callable):
        start = time.perf_counter()
        out = job()
        if engines.device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        return out

    prediction_MD, features_BND = clock("student_forward", lambda: engines.student(batch))
    with torch.no_grad():
        target_BSD = clock("teacher_forward", lambda: engines.teacher(batch, features_BND))
    target_MD = take_masked(target_BSD, batch.masked_index_M)
    loss = clock("loss", lambda: regression_loss(prediction_MD, target_MD, recipe.loss))
    result = objective.Objective(loss, prediction_MD, target_MD, target_BSD)
    clock("backward", lambda: objective.backward(engines, result, batch.num_masked))
    guard.note(loss)
    verdict = clock("guard", lambda: guard.judge(batch.num_masked))
    clock("optimizer", lambda: guard.step(verdict))
    clock("ema", lambda: engines.shadow.update(0.999))
    return seconds


class PlainStep:
    """The same modules, loss, clipping, fused AdamW and teacher in plain torch, without any engine."""

    def __init__(self, recipe: Recipe, parallel, batch_size: int) -> None:
        import torch

        from model.dropout import DropoutStream
        from model.init import Init
        from model.student import Student
        from model.teacher import Teacher
        from recipes.modalities.registry import MODALITIES

        frontend = MODALITIES[recipe.modality].build_frontend(recipe)
        self.recipe = recipe
        self.student = Student(recipe.model, frontend, Init(1), parallel, DropoutStream())
        self.teacher = Teacher(recipe.model, recipe.teacher, frontend, Init(1), parallel).eval()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=recipe.optim.lr, fused=True)

    def run(self, batch) -> float:
        """Seconds of one update."""
        import torch

        from model.loss import regression_loss
        from model.student import take_masked

        start = time.perf_counter()
        prediction_MD, features_BND = self.student(batch)
        with torch.no_grad():
            target_MD = take_masked(self.teacher(batch, features_BND), batch.masked_index_M)
        loss = regression_loss(prediction_MD, target_MD, self.recipe.loss) / batch.num_masked
        loss.backward()
        if self.recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def matmul_flops(dtype, device) -> float:
    """Best of a few 2048^3 products, in FLOP/s."""
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


def peak_memory(device) -> int:
    """Most memory held so far: of the device on CUDA, resident of the process on the CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
