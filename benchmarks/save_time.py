"""Measures what a checkpoint costs training: the host copy, the background write, the updates that it slows down, and loading.

python benchmarks/save_time.py --size base --batch 4 --length 128 --json
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from recipes.catalog import RECIPES
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.ds_config import load_ds_config, resolve
from recipes.ledger.save_interval import daly_interval
from recipes.modalities.registry import MODALITIES
from recipes.train.cli import default_ds_config
from step_recipe import build_recipe, random_batch

ELEMENT_BYTES, KINDS = 4, 4


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per figure. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="text", choices=sorted(RECIPES))
    parser.add_argument("--size", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, help="tokens of a text (default 512), seconds of a recording (10)")
    parser.add_argument("--deepspeed_config", type=Path, default=default_ds_config())
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="updates without a save before each save")
    parser.add_argument("--out", type=Path, help="folder on the disk to be measured (default: a temporary one)")
    parser.add_argument("--mtbf-hours", type=float, default=24.0, help="mean time between failures, for the advised interval")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    args.length = MODALITIES[args.modality].benchmark_length if args.length is None else args.length
    quiet_libraries()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        result = measure(args, Path(folder))
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Build the engines. Then, several times: run updates alone, begin a save, and run updates while it is written. Returns the figures of
    summary(), and the seconds of loading. The checkpoints go to `folder`."""
    from model.parallel import init_parallel
    from recipes.checkpoint.layout import Counters
    from recipes.checkpoint.restore import load_newest
    from recipes.checkpoint.save import CheckpointSaver
    from recipes.cluster.world import join_world, leave_world
    from recipes.objectives.registry import build_objective
    from recipes.train.guard import UpdateGuard
    from recipes.train.spikes import SpikeStatistic
    from timed_update import WARM_UP, timed_step

    recipe = build_recipe(f"{args.modality}_{args.size}", batch=args.batch, length=args.length, dropout="0")
    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": args.batch}
    world = join_world()
    objective = build_objective(recipe, resolve(recipe, content, str(args.deepspeed_config), 1), init_parallel(1, world.device.type))
    batch = random_batch(recipe, args.batch, args.length).to(world.device)
    saver = CheckpointSaver(folder, objective, world, recipe.checkpoint)

    def update() -> float:
        guard = UpdateGuard(objective.student, objective.parallel, recipe.guard, world, SpikeStatistic(recipe.guard))
        return sum(timed_step(objective, batch, guard).values())

    for _ in range(WARM_UP):
        update()
    alone, saves = [], []
    for number in range(args.saves):
        quiet = [update() for _ in range(args.steps)]
        saver.begin(Counters(step=number + 1), {})
        beside = [update()]
        while not saver.is_written():
            beside.append(update())
        alone += quiet
        saves.append((saver.finish(), beside))
    start = time.perf_counter()
    assert load_newest(folder, objective, world, print)
    load_seconds = time.perf_counter() - start
    saver.close()
    leave_world()
    numbers = sum(p.ds_numel for p in objective.student.parameters()), sum(p.ds_numel for p in objective.teacher.parameters())
    return summary(alone, saves, numbers, args.mtbf_hours) | {"load_seconds": load_seconds}


def summary(alone: list[float], saves: list[tuple], numbers: tuple[int, int], mtbf_hours: float) -> dict:
    """Return medians over the saves, and the save interval that follows from them. `alone`: seconds of updates without a save. `saves`:
    result of each save, with the seconds of the updates beside it. The first save also allocates the host copy, so its time is reported
    separately. `numbers`: parameters of student and teacher."""
    step = statistics.median(alone)
    stalls = [outcome.copy_seconds + max(0.0, sum(beside) - step * len(beside)) for outcome, beside in saves]
    later = saves[1:] or saves
    stall = statistics.median(stalls[1:] or stalls)
    interval = daly_interval(stall, mtbf_hours * 3600)
    return {
        "step_seconds": step,
        "first_copy_seconds": saves[0][0].copy_seconds,
        "copy_seconds": statistics.median(outcome.copy_seconds for outcome, _ in later),
        "write_seconds": statistics.median(outcome.write_seconds for outcome, _ in later),
        "stall_seconds": stall,
        "stall_seconds_each": stalls,
        "advised_interval_seconds": interval,
        "stall_percent_at_advised_interval": 100 * stall / (interval + stall),
        "bytes": saves[-1][0].bytes,
        "bytes_per_state_value": saves[-1][0].bytes / (3 * numbers[0] + numbers[1]),
        "overhead_percent_over_16_bytes": 100 * (saves[-1][0].bytes / (ELEMENT_BYTES * (3 * numbers[0] + numbers[1])) - 1),
        "cores": len(os.sched_getaffinity(0)),
    }


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
