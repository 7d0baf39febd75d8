"""Compare cost and results of a job of several nodes with one process, with the shipped tiny recipes, on a real Slurm of two nodes on this
machine: seconds from sbatch to the first update compared with deepspeed alone, and the largest differences over 20 updates.

python -m tests.soak.slurm_figures --start 5 --equal --out results/slurm_figures.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.disturbed import conclude, prepare
from tests.launching import PRETRAIN, ROOT, read_jsonl
from tests.slurm.cluster import HERE, Cluster, cluster
from tests.slurm.runs import SBATCH, Run

STEPS = 20
SAME = [
    *(f"run.max_steps={STEPS}", "run.log_steps=1", f"run.eval_steps={STEPS}", "run.eval_samples=16", "optim.warmup_steps=5"),
    *("model.hidden_dropout=0", "model.attention_dropout=0", "model.block.layerdrop=0", "model.block.drop_path=0"),
]
"""Dropouts 0, and a warm-up so short that rounding differences grow."""


def compare_starts(slurm: Cluster, count: int) -> dict[str, list[float]]:
    """Measure the seconds to the first step, in turn: deepspeed alone on a node, a job of one node, a job of two nodes."""
    data = prepare(slurm.folder)
    seconds: dict[str, list[float]] = {"deepspeed": [], "--nodes=1": [], "--nodes=2": []}
    for number in range(count):
        for way, found in seconds.items():
            run = Run(slurm, data, slurm.folder / f"start_{number}_{way}")
            begin = time.monotonic()
            with started(run, way) as job:
                run.wait_for_step(1, job)
                found.append(time.monotonic() - begin)
            print(f"{way}: {found[-1]:.1f} s", flush=True)
    return seconds


@contextmanager
def started(run: Run, way: str) -> Iterator[str]:
    """Start an endless run by deepspeed alone on a node, or by sbatch with `way`. Yields the job's number."""
    slurm, command = run.slurm, run.command(run__max_steps=100_000, optim__schedule_steps=100_000, run__save_steps=100_000)
    if way != "deepspeed":
        job = slurm.submit(way, SBATCH, *command)
        yield job
        slurm.run("scancel", job)
        slurm.wait(job)
        return
    words = [HERE / "slurm-node", "exec", slurm.folder, "node1", "deepspeed", "-q", *command]
    with subprocess.Popen([str(word) for word in words], cwd=ROOT, env=slurm.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield "0"
        slurm.on_node("node1", "pkill", "-KILL", "-f", "pretrain_text.py")


def largest_differences(slurm: Cluster, modality: str) -> dict[str, dict[str, float]]:
    """Return differences of loss and gradient norm from one process, in the first five updates and in all: two nodes with one process and
    with two processes each, the latter tensor-parallel inside the node."""
    words = [PRETRAIN[modality].relative_to(ROOT), *(part for one in SAME for part in ("--set", one))]
    alone = slurm.folder / f"{modality}_alone"
    done = slurm.run("python", *words, "--run-dir", alone, timeout=900)
    assert done.returncode == 0, done.stderr
    tp2 = slurm.folder / "tp2.json"
    shipped = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text())
    tp2.write_text(json.dumps(shipped | {"megatron": {"tensor_model_parallel_size": 2}}))
    data, found = ["--data", alone / "prepared"], {}
    for name, ranks, more in (("2 nodes x 1", "1", []), ("2 nodes x 2, TP 2", "2", ["--deepspeed_config", tp2])):
        run_dir = slurm.folder / f"{modality}_{ranks}"
        job = slurm.submit(SBATCH, *words, *data, "--run-dir", run_dir, *more, RANKS_PER_NODE=ranks)
        assert slurm.wait(job, 900) == "COMPLETED", slurm.output(job)
        rows = zip(read_jsonl(run_dir / "metrics.jsonl"), read_jsonl(alone / "metrics.jsonl"), strict=True)
        differences = [(a["step"], abs(a[key] / b[key] - 1)) for a, b in rows for key in ("loss", "grad_norm")]
        found[name] = {f"to step {last}": max(value for step, value in differences if step <= last) for last in (5, STEPS)}
        print(f"{modality}, {name}: {found[name]}", flush=True)
    return found


def main() -> int:
    """Returns the exit code: 1 if the differences are above 1e-5 and 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, help="how often to measure the seconds to the first step")
    parser.add_argument("--equal", action="store_true", help="compare 20 updates of each modality")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    args = parser.parse_args()
    begin, failures = time.monotonic(), []
    with (
        tempfile.TemporaryDirectory(prefix="figures_", ignore_cleanup_errors=True) as folder,
        cluster(Path(folder, "cluster")) as slurm,
    ):
        starts = compare_starts(slurm, args.start)
        differences = {modality: largest_differences(slurm, modality) for modality in (PRETRAIN if args.equal else ())}
    for modality, ways in differences.items():
        failures += [f"{modality}, {way}" for way, one in ways.items() if one["to step 5"] > 1e-5 or one[f"to step {STEPS}"] > 1e-4]
    seconds = {way: {"median": round(median(found), 1), "all": [round(one, 1) for one in found]} for way, found in starts.items() if found}
    return conclude(
        {"soak": "slurm_figures", "first_step_seconds": seconds, "differences": differences, "failures": failures}, begin, args.out
    )


if __name__ == "__main__":
    sys.exit(main())
