"""Counts the bytes that one update gives to each kind of process group, beside what the planner says (recipes/plan/traffic.py). One process
is rank 0 of ranks that do not exist; the engines and the update are those of training.

python benchmarks/plan_traffic.py
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from plan_memory import MemoryCase, settings
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.plan.traffic import update_traffic

FEW_BYTES = 1000
"""Collectives of a few numbers, such as norms, are not planned."""
CASES = (
    MemoryCase("text_base", 2, 64, ranks=8, layers=2, config="zero3_bf16", micro_batches=2),
    MemoryCase("text_base", 8, 128, ranks=8, tp_size=2, layers=2, config="zero3_bf16"),
    MemoryCase("text_base", 2, 64, ranks=16, layers=2, shard_size=8, config="zero3_bf16", micro_batches=2),
    MemoryCase("speech_base", 1, 3, ranks=4, tp_size=2, layers=2, config="zero3_bf16", recomputes=True),
    MemoryCase("vision_base", 2, 0, ranks=4, layers=3, config="zero3_cpu", micro_batches=2),
)


def measure(case: MemoryCase) -> dict[str, Any]:
    """Count an update of a case after two others, and return kind and ranks of collectives -> bytes."""
    from fake_ranks import Counted, join_fake_world
    from model.parallel import init_parallel
    from recipes.objectives.registry import build_objective
    from step_recipe import random_batch

    join_fake_world(case.ranks)
    recipe, config = settings(case)
    parallel = init_parallel(config.batch.tp_size, "cpu", config.batch.num_replicas)
    objective = build_objective(recipe, config, parallel)
    batch = random_batch(recipe, case.batch, case.length)
    for number in range(2):
        update(objective, batch, number, case.micro_batches)
    counted = Counted()
    with counted:
        update(objective, batch, 2, case.micro_batches)
    return {f"{kind} {size}": (counted.counts[kind, size], num_bytes) for (kind, size), num_bytes in counted.num_bytes.items()}


def update(objective: Any, batch: Any, number: int, micro_batches: int) -> None:
    """Do one update like training, without the guard's small sums. Gathered weights are arbitrary here, so losses may be NaN."""
    import torch

    from recipes.engine.replicated import share_gradients
    from recipes.engine.update import add_up_replicas, backward, clear_gradients, step

    student, parallel = objective.student, objective.parallel
    total = objective.count(batch) * parallel.dp_size * micro_batches
    for micro_batch in range(micro_batches):
        if micro_batch:
            student.step()
        objective.stream.update, objective.stream.micro_batch = number, micro_batch
        outcome = objective.forward(batch, total)
        backward(student, torch.nan_to_num(outcome.loss) * 1e-3, total, parallel.shard_size)
    add_up_replicas(student, parallel)
    share_gradients(student, parallel)
    step(student)
    clear_gradients(student, parallel)
    objective.after_step(number + 1)


def compare(number: int) -> dict[str, Any]:
    """Return counted and planned megabytes of an update of a case, by kind of collective and ranks, and how much the plan is off."""
    case = CASES[number]
    recipe, config = settings(case)
    command = [sys.executable, __file__, "--case", str(number), "--inside"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        raise RuntimeError(done.stderr[-3000:])
    counted = {key: num_bytes for key, (_, num_bytes) in json.loads(found[-1]).items() if num_bytes > FEW_BYTES}
    planned = dict.fromkeys(counted, 0.0)
    for one in update_traffic(recipe, config, case.length * getattr(recipe.data, "sample_rate", 1)):
        key = f"{one.each.kind} {one.each.num_ranks}"
        planned[key] = planned.get(key, 0.0) + one.num_bytes
    off = sum(planned.values()) / sum(counted.values()) - 1
    megabytes = {key: [round(size / 1e6, 3) for size in (counted.get(key, 0), planned[key])] for key in planned}
    return {"case": case._asdict(), "counted_and_planned_megabytes": megabytes, "percent_off": round(100 * off, 3)}


def main() -> int:
    """Parse the flags, count, and print a JSON object for each case. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help=f"number of a case, from 0 to {len(CASES) - 1} (default: all)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process that counts
    args = parser.parse_args()
    if not args.inside:
        for number in range(len(CASES)) if args.case is None else [args.case]:
            print(json.dumps(compare(number)), flush=True)
        return 0
    quiet_libraries()
    print(json.dumps(measure(CASES[args.case])))
    sys.stdout.flush()
    os._exit(0)  # a fake process group cannot be destroyed


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
