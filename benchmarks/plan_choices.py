"""Runs the three layouts that the planner ranks first beside each other on this CPU, one update of each in turn. Prints whether the first
is the fastest.

python benchmarks/plan_choices.py              all cases
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any, NamedTuple

from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries, world_from_environment
from recipes.config import Recipe
from recipes.ds_config import SHIPPED, load_ds_config
from recipes.modalities.registry import MODALITIES
from recipes.plan.links import Cluster
from recipes.planner.choices import choices
from recipes.planner.run_plan import RunPlan
from recipes.planner.show import in_words
from recipes.settings import apply_overrides

CONFIG = SHIPPED / "zero3_cpu.json"
ROUNDS, WARM_UP = 7, 2


class Case(NamedTuple):
    """A recipe on some ranks of this machine. `length`: tokens of a text, seconds of a recording, 0 for images."""

    recipe: str
    ranks: int
    batch: int
    length: int
    changes: tuple[str, ...] = ()


def sizes(width: int, layers: int) -> tuple[str, ...]:
    """Return the settings of a network of this size."""
    inner = f"model.ffn_hidden_size={4 * width}", f"model.num_attention_heads={width // 64}"
    return (f"model.hidden_size={width}", *inner, f"model.num_layers={layers}", f"teacher.average_top_k_layers={layers}")


CASES = (
    Case("text_tiny", 1, 16, 128, sizes(256, 4)),
    Case("text_tiny", 2, 16, 128, sizes(512, 6)),
    Case("text_base", 2, 4, 128, ("model.num_layers=4", "teacher.average_top_k_layers=4", "frontend.vocab_size=4096")),
    Case("vision_tiny", 2, 32, 0),
    Case("speech_tiny", 2, 8, 4),
)


def setting(case: Case) -> tuple[Recipe, list[RunPlan]]:
    """Return the recipe of a case, and its plans in the planner's order."""
    modality = case.recipe.partition("_")[0]
    recipe = MODALITIES[modality].resized(MODALITIES[modality].recipes[case.recipe](), case.length)
    changes = [*case.changes, f"run.global_batch_size={case.batch}"]
    if recipe.data.group_size > 1:
        changes.append(f"data.group_size={case.batch // case.ranks}")
    recipe = apply_overrides(recipe, changes)
    return recipe, choices(recipe, load_ds_config(CONFIG), str(CONFIG), Cluster.of_text(f"gpus={case.ranks},device=cpu"))


def measure(case: Case) -> list[dict[str, Any]]:
    """Build the engines of the first three plans and time updates of each in turn. Return planned and measured seconds."""
    from model.parallel import init_parallel
    from recipes.cluster.world import join_world, leave_world
    from recipes.objectives.registry import build_objective
    from step_recipe import random_batch
    from timed_update import EngineSteps

    recipe, ranked = setting(case)
    world, contenders = join_world(), []
    for plan in ranked[:3]:
        batch = plan.config.batch
        parallel = init_parallel(batch.tp_size, "cpu", batch.num_replicas)
        objective = build_objective(recipe, plan.config, parallel)
        contenders.append(EngineSteps(recipe, objective, random_batch(recipe, batch.micro_batch_size, case.length), world))
    seconds: list[list[float]] = [[] for _ in contenders]
    for number in range(WARM_UP + ROUNDS):
        for plan, steps, found in zip(ranked, contenders, seconds, strict=False):
            taken = sum(steps.update(micro_batches=plan.config.batch.accumulation_steps).values())
            found += [taken] if number >= WARM_UP else []
    leave_world()
    return [
        {"layout": in_words(plan).partition(":")[0], "planned": round(plan.step.total, 3), "measured": round(median(found), 3)}
        for plan, found in zip(ranked, seconds, strict=False)
    ]


def main() -> int:
    """Parse the flags, measure, and print a JSON object for each case. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)  # one rank of a case
    args = parser.parse_args()
    quiet_libraries()
    if args.case is not None:
        found = measure(CASES[args.case])
        if world_from_environment().rank == 0:
            first = found[0]["measured"] == min(row["measured"] for row in found)
            print(json.dumps({"case": args.case, "first_is_fastest": first, "layouts": found}), flush=True)
        return 0
    for number, case in enumerate(CASES):
        threads = str(max(1, (os.cpu_count() or 1) // case.ranks))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={case.ranks}", __file__]
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        done = subprocess.run([*command, "--case", str(number)], env=environment, capture_output=True, text=True, timeout=900, check=False)
        print(*[line for line in done.stdout.splitlines() if line.startswith("{")] or [done.stderr[-2000:]], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
