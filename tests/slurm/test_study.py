"""A study on the cluster: job arrays with a limit, a cell that always fails, a node that loses power; then the same command again."""

import json
from pathlib import Path

from recipes.system.json_lines import read_rows
from tests.slurm.cluster import Cluster
from tests.tiny_study import BROKEN, UPDATES, compared, tiny_study

SCALING = "launch/scaling.py"
OPTIONS = "--mem=0 --time=10"


def scaling(slurm: Cluster, verb: str, study: Path, *more: str) -> str:
    """Run a verb of the study on the login node, and return what it prints."""
    done = slurm.run("python", SCALING, verb, study, *more, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(slurm: Cluster, study: Path, *more: str) -> str:
    """Submit what is not done, two tasks at a time, and return what is printed."""
    return scaling(slurm, "submit", study, "--limit", "2", "--sbatch", OPTIONS, *more)


def job_of(study: Path) -> str:
    """Return the number of the study's last job array."""
    return str(read_rows(study.parent / "study" / "jobs.jsonl")[0][-1]["job"])


def wait_for_end(slurm: Cluster, study: Path, timeout: float = 400) -> None:
    """Wait until Slurm has none of the study's tasks any more."""
    job = job_of(study)
    slurm.wait_until(lambda: not slurm.run("squeue", "-h", "-j", job).stdout.strip(), timeout, job)


def test_8_cells_two_at_a_time_of_which_one_always_fails(slurm: Cluster, prepared: dict[str, Path]) -> None:
    folder = slurm.folder / "eight"
    folder.mkdir()
    changes = [{"name": f"lr {number}", "optim.lr": 1e-3 * number} for number in range(1, 8)]
    study = tiny_study(folder, prepared["text"], axes={"change": [*changes, {"name": "broken", **BROKEN}]}, seeds=[1])
    assert "8 runs on 1 x 1 ranks each, at most 2 at a time" in submit(slurm, study)
    job, most = job_of(study), 0

    def ended() -> bool:
        nonlocal most
        states = slurm.run("squeue", "-h", "-r", "-j", job, "-o", "%T").stdout.split()
        most = max(most, states.count("RUNNING"))
        return not states

    slurm.wait_until(ended, 400, job)
    assert most == 2
    assert "8 runs: 7 done, 1 failed" in scaling(slurm, "status", study)
    again = submit(slurm, study, "--retries", "0")
    assert "failed for good: change-broken seed 1: " in again and "job " not in again, again
    printed = scaling(slurm, "collect", study)
    assert "change-broken seed 1: failed, " in printed and "collapsed at step 6" in printed, printed
    rows = compared(folder / "study" / "table.csv")
    assert sorted(row["state"] for row in rows) == ["done"] * 7 + ["failed"]
    assert {row["step"] for row in rows if row["state"] == "done"} == {str(UPDATES)}


def test_a_node_that_loses_power_changes_nothing_in_the_table(slurm: Cluster, prepared: dict[str, Path]) -> None:
    tables = []
    for name in ("whole", "power"):
        folder = slurm.folder / f"study_{name}"
        folder.mkdir()
        study = tiny_study(folder, prepared["text"], axes={"optim.lr": [1e-3, 2e-3]})
        settings = json.loads(study.read_text())
        settings["set"] |= {"run.max_steps": 150, "run.save_steps": 10}
        study.write_text(json.dumps(settings))
        submit(slurm, study)
        if name == "power":
            metrics = folder / "study" / "cells"
            slurm.wait_until(lambda found=metrics: any(found.glob("*/*/metrics.jsonl")), 120, job_of(study))
            slurm.power_off("node2")
            slurm.wait_until(lambda: slurm.run("sinfo", "-h", "-n", "node2", "-o", "%t").stdout.startswith("down"), 120, job_of(study))
            slurm.power_on("node2")
            slurm.run("scontrol", "update", "NodeName=node2", "State=RESUME")
        wait_for_end(slurm, study)
        submit(slurm, study)
        if "4 done" not in scaling(slurm, "status", study):
            wait_for_end(slurm, study)
        assert "4 runs: 4 done" in scaling(slurm, "status", study)
        scaling(slurm, "collect", study)
        tables.append(compared(folder / "study" / "table.csv"))
    assert tables[0] == tables[1]
