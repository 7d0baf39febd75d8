"""A study of 12 runs on a real Slurm of two nodes, which is interrupted at random moments: kill -9 of a run, of `submit`, power cuts of a
node. Each time the same command follows. The table must be that of the same study on one machine without any fault.

python -m tests.soak.study --interruptions 5 --out results/study.json
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recipes.modalities.registry import MODALITIES
from recipes.system.json_lines import read_rows
from tests.distributed import run_command
from tests.launching import ROOT, tiny_recipe
from tests.made_up import WRITE
from tests.slurm.cluster import Cluster, cluster, missing
from tests.tiny_study import compared, tiny_study

SCALING = ROOT / "launch" / "scaling.py"
SUBMIT = ("--limit", "2", "--sbatch", "--mem=0 --time=10")
RANK = "pretrain_text.py --local_rank"
PATIENCE_SECONDS = 900


def submit(slurm: Cluster, study: Path) -> None:
    """Submit what is not done and not queued."""
    done = slurm.run("python", SCALING, "submit", study, *SUBMIT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def kill_a_run(slurm: Cluster, study: Path, rng: random.Random) -> str:
    """Kill a rank of any run."""
    ranks = [(node, pid) for node in slurm.nodes for pid in slurm.pids(node, RANK)[-1:]]
    if not ranks:
        return "no run to kill"
    node, pid = rng.choice(ranks)
    slurm.on_node(node, "kill", "-KILL", pid)
    return f"run killed on {node}"


def kill_submit(slurm: Cluster, study: Path, rng: random.Random) -> str:
    """Start `submit`, and kill it within a second or two."""
    process = subprocess.Popen([sys.executable, str(SCALING), "submit", str(study), *SUBMIT], cwd=ROOT, env=slurm.env)
    time.sleep(rng.uniform(0.2, 2.0))
    process.kill()
    process.wait(10)
    return "submit killed"


def cut_power(slurm: Cluster, study: Path, rng: random.Random) -> str:
    """Cut the power of a node, and start it again when Slurm has noticed."""
    node = rng.choice(slurm.nodes)
    slurm.power_off(node)
    deadline = time.monotonic() + 120
    while not slurm.run("sinfo", "-h", "-n", node, "-o", "%t").stdout.startswith("down") and time.monotonic() < deadline:
        time.sleep(0.5)
    slurm.power_on(node)
    slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    return f"{node} lost power"


WAYS: tuple[Callable[[Cluster, Path, random.Random], str], ...] = (kill_a_run, cut_power, kill_submit)


def finish(slurm: Cluster, study: Path) -> None:
    """Submit until all runs are done."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "12 done" not in slurm.run("python", SCALING, "status", study).stdout:
        assert time.monotonic() < deadline, slurm.run("python", SCALING, "status", study).stdout
        submit(slurm, study)
        time.sleep(5)


def main() -> int:
    """Run both studies and compare their tables. Returns 0 if they are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="study_", ignore_cleanup_errors=True) as name, cluster(Path(name, "cluster")) as slurm:
        folder = slurm.folder / "study_soak"
        folder.mkdir()
        data = MODALITIES["text"].prepare(tiny_recipe("text", data__path=WRITE["text"](folder)), folder / "data", num_processes=1)
        studies = {}
        for kind in ("undisturbed", "interrupted"):
            (folder / kind).mkdir()
            studies[kind] = tiny_study(folder / kind, data)
        run_command([sys.executable, SCALING, "submit", studies["undisturbed"], "--local", "2"], folder, 900, {"OMP_NUM_THREADS": "1"})
        study, what = studies["interrupted"], []
        for number in range(args.interruptions):
            submit(slurm, study)
            time.sleep(rng.uniform(5, 40))
            what.append(WAYS[number % len(WAYS)](slurm, study, rng))
            print(what[-1], flush=True)
        finish(slurm, study)
        tables = {}
        for kind, path in studies.items():
            assert slurm.run("python", SCALING, "collect", path, timeout=120).returncode == 0
            tables[kind] = compared(path.parent / "study" / "table.csv")
        jobs = sum("job" in row for row in read_rows(study.parent / "study" / "jobs.jsonl")[0])
    equal = tables["undisturbed"] == tables["interrupted"] and len(tables["interrupted"]) == 12
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"interruptions": what, "job_arrays": jobs, "runs": len(tables["interrupted"]), "equal": equal}, indent=2)
    )
    print(f"tables {'equal' if equal else 'DIFFER'}; {args.out}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
