"""Measures the peak host memory of each rank while a partitioned model is built, and prints it beside the expected share.

torchrun --standalone --nproc_per_node=4 benchmarks/build_memory.py --recipe text_large
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries, world_from_environment
from recipes.ds_config import load_ds_config, resolve
from recipes.text import RECIPES

MIB = 1 << 20


def peak_bytes() -> int:
    """Return the highest resident size of this process, in bytes, since the last reset_peak() (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Restart the measurement of the highest resident size. Returns the current size in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def measure(name: str, world_size: int) -> dict[str, float]:
    """Build the student of the recipe `name` alone, then student, teacher and optimizer. Return the peak memory of each (the largest of
    all ranks) and the expected sizes, in MiB."""
    import torch
    import torch.distributed as dist

    from model.dropout import DropoutStream
    from model.init import Init
    from model.parallel import init_parallel
    from model.student import Student
    from recipes.engine import shards
    from recipes.engine.build import EngineBuilder
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.registry import build_objective
    from recipes.plan.size import num_parameters, state_bytes

    recipe = RECIPES[name]()
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=world_size))
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json")
    content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    config = resolve(recipe, content, "zero3_cpu.json", world_size)
    parallel = init_parallel(1, "cpu")
    before = reset_peak()
    builder = EngineBuilder(config, recipe.optim, parallel, DropoutStream())
    frontend = MODALITIES[recipe.modality].build_frontend(recipe)
    with builder.building():
        student = builder.partitioned(lambda: Student(recipe.model, frontend, Init(recipe.run.seed), parallel, builder.stream))
    seen = {"student_peak": peak_bytes() - before, "student_after": reset_peak() - before}
    largest = max(p.ds_numel for p in student.parameters()) * 4
    del student
    before = reset_peak()
    objective = build_objective(recipe, config, parallel)
    seen |= {"everything_peak": peak_bytes() - before, "everything_after": reset_peak() - before}
    assert all(p.numel() == 0 for _, p in shards.named_parameters(objective.student))
    peaks = torch.tensor(list(seen.values()), dtype=torch.int64)
    dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
    model = num_parameters(recipe) * 4
    result = {"model": model, "share": model / world_size, "largest_layer": largest, **dict(zip(seen, peaks.tolist(), strict=True))}
    result["state_share"] = sum(state_bytes(recipe, config).values())
    return {f"{key}_mib": round(value / MIB, 1) for key, value in result.items()}


def main() -> int:
    """Parse the flags and measure. Rank 0 prints one JSON object. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="text_large")
    args = parser.parse_args()
    quiet_libraries()
    world_size = world_from_environment().size
    from recipes.cluster.world import join_world, leave_world

    world = join_world()
    result = measure(args.recipe, world_size)
    if world.rank == 0:
        print(json.dumps({"ranks": world_size, **result}))
    leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
