"""Peak host memory of each rank while a model is built partitioned, beside what its share should be.

    torchrun --standalone --nproc_per_node=4 benchmarks/build_memory.py --recipe text_large
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from recipes.text import RECIPES
from recipes.train.cli import ROOT, exit_code_of
from recipes.train.ds_config import load_ds_config, resolve
from recipes.train.environment import quiet_libraries, world_from_environment

MIB = 1 << 20


def peak_bytes() -> int:
    """Highest resident size since the last reset (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Forget the peak so far; returns the resident size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def main() -> int:
    """Build the student alone, then everything; rank 0 prints the largest peak over the ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="text_large")
    args = parser.parse_args()
    quiet_libraries()
    _, world_size = world_from_environment()
    recipe = RECIPES[args.recipe]()
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=world_size))
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json")
    content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    config = resolve(recipe, content, "zero3_cpu.json", world_size)

    import torch
    import torch.distributed as dist

    from model.dropout import DropoutStream
    from model.parallel import init_parallel
    from recipes.plan.size import num_parameters, state_bytes
    from recipes.train import allocator, shards
    from recipes.train.engine import build_engines, build_student
    from recipes.train.world import join_world, leave_world

    world = join_world()
    parallel = init_parallel(1, "cpu")
    before = reset_peak()
    with allocator.returning_memory():
        student = build_student(recipe, config, parallel, DropoutStream())
    student_peak, student_after = peak_bytes() - before, reset_peak() - before
    largest = max(p.ds_numel for p in student.parameters()) * 4
    del student
    before = reset_peak()
    engines = build_engines(recipe, config, parallel)
    everything_peak, everything_after = peak_bytes() - before, reset_peak() - before
    assert all(p.numel() == 0 for _, p in shards.named_parameters(engines.student))
    seen = torch.tensor([student_peak, student_after, everything_peak, everything_after], dtype=torch.int64)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    result = {
        "ranks": world_size,
        "model_mib": num_parameters(recipe) * 4 / MIB,
        "share_mib": num_parameters(recipe) * 4 / world_size / MIB,
        "largest_layer_mib": largest / MIB,
        "student_peak_mib": int(seen[0]) / MIB,
        "student_after_mib": int(seen[1]) / MIB,
        "state_share_mib": sum(state_bytes(recipe, config).values()) / MIB,
        "everything_peak_mib": int(seen[2]) / MIB,
        "everything_after_mib": int(seen[3]) / MIB,
    }
    if world.rank == 0:
        print(json.dumps({k: round(v, 1) for k, v in result.items()}))
    leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
