"""A stand-in for the run of one seed, without torch: it writes what a scored run leaves, or does what RUN_DIR/plan.json says.

plan.json: number of the run.seed -> exit code, or "wait" until a signal comes, then 75. RUN_DIR/starts.txt has a line for each start.
"""

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from recipes.config import Recipe
from recipes.finetune.results import add_results
from recipes.finetune.task_result import SplitScore, run_entry
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.settings import apply_overrides, recipe_to_dict
from tests.launching import tiny_recipe

VALUES = {1: 0.7, 2: 0.9, 3: 0.8}
"""run.seed -> accuracy that its run reaches."""


def base_recipe(num_seeds: int) -> Recipe:
    """Return the recipe of a command with this many seeds."""
    recipe = text_recipe("classify", TEXT_TASKS["classify"], tiny_recipe())
    recipe = replace(recipe, run=replace(recipe.run, seed=1))
    return replace(recipe, finetune=replace(recipe.finetune, seeds=num_seeds))


def main(argv: list[str]) -> int:
    """Run with the options that a seed gets. Return the exit code."""
    run_dir = Path(argv[argv.index("--run-dir") + 1])
    recipe = apply_overrides(base_recipe(3), [argv[i + 1] for i, word in enumerate(argv) if word == "--set"])
    seed, plan = recipe.run.seed, run_dir.parent / "plan.json"
    signals = list[int]()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: signals.append(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with (run_dir.parent / "starts.txt").open("a") as file:
        file.write(f"{seed}\n")
    wanted = json.loads(plan.read_text()).get(str(seed), 0) if plan.exists() else 0
    while wanted == "wait" and not signals:
        time.sleep(0.01)
    if wanted:
        return 75 if wanted == "wait" else wanted
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps({"recipe": recipe_to_dict(recipe)}))
    score = SplitScore("test", {"accuracy": VALUES[seed]}, 10, run_dir / "predictions" / "test.csv")
    checkpoint = run_dir / "checkpoints" / "step_00000007"
    add_results(run_dir, [run_entry(recipe, score, checkpoint=checkpoint, step=7, started_from="random")])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
