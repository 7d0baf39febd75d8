"""Compares planned with measured times of an update on this CPU: runs of three sizes in turn, of which the smallest calibrates the plan.

python benchmarks/plan_time.py --rounds 5
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from recipes.check import changed_recipe
from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.ds_config import SHIPPED, load_ds_config
from recipes.plan.links import Cluster
from recipes.planner.calibrate import calibrate, measured_rows
from recipes.planner.choices import resolved
from recipes.planner.run_plan import RunPlan
from recipes.text import text_tiny

SIZES = ((256, 4), (384, 6), (512, 8))
"""Channels and layers of the runs. The first one calibrates."""
UPDATES = 8
CONFIG = SHIPPED / "zero3_cpu.json"


def settings(width: int, layers: int, batch: int, length: int) -> list[str]:
    """Return the settings of a run: text_tiny with other sizes, every update logged, nothing evaluated before the end."""
    return [
        *(f"model.hidden_size={width}", f"model.ffn_hidden_size={4 * width}", f"model.num_attention_heads={width // 64}"),
        *(f"model.num_layers={layers}", f"teacher.average_top_k_layers={layers}", f"data.sequence_length={length}"),
        *(f"run.global_batch_size={batch}", f"run.max_steps={UPDATES}", "run.log_steps=1", "run.eval_steps=1000", "run.save_steps=1000"),
        *("optim.warmup_steps=2", "run.eval_samples=16"),
    ]


def train(changes: list[str], run_dir: Path) -> None:
    """Train a run."""
    flags = [text for change in changes for text in ("--set", change)]
    script: list[str | Path] = [sys.executable, ROOT / "launch" / "pretrain_text.py"]
    command = [*script, "--deepspeed_config", CONFIG, "--run-dir", run_dir, *flags]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=600)


def one_round(batch: int, length: int) -> list[dict[str, float]]:
    """Train all sizes in turn. Return measured and planned seconds of each."""
    content, cluster = load_ds_config(CONFIG) | {"train_micro_batch_size_per_gpu": batch}, Cluster.of_text("device=cpu")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / f"{width}x{layers}" for width, layers in SIZES]
        for (width, layers), run_dir in zip(SIZES, runs, strict=True):
            changes = settings(width, layers, batch, length)
            train(changes, run_dir)
            recipe = changed_recipe(text_tiny(), changes, None)
            config = resolved(recipe, content, str(CONFIG), cluster)
            rates = calibrate([runs[0]], recipe, config, cluster).cluster
            seconds = median(row["step_seconds"] for row in measured_rows(run_dir, recipe))
            planned = RunPlan(recipe, config, rates).step.total
            found.append({"measured": seconds, "planned": planned, "off": planned / seconds - 1})
    return found


def main() -> int:
    """Parse the flags, measure, and print a JSON object. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="samples of an update, one micro-batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample")
    args = parser.parse_args()
    rounds = [one_round(args.batch, args.length) for _ in range(args.rounds)]
    for number, (width, layers) in enumerate(SIZES):
        row = {key: median(one[number][key] for one in rounds) for key in ("measured", "planned", "off")}
        percent = [round(100 * one[number]["off"], 1) for one in rounds]
        shown = {"measured_seconds": row["measured"], "planned_seconds": row["planned"], "percent_off": round(100 * row["off"], 1)}
        print(json.dumps({"size": f"{width} x {layers}", **shown, "rounds": percent}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
