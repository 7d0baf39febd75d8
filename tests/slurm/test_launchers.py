"""Other ways to start: a launcher inside an allocation, the batch script inside an allocation, and a grid as a job array."""

from pathlib import Path

from tests.launching import overrides
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SBATCH, Run

SHORT = {"run__max_steps": 3, "run__save_steps": 3, "run__eval_steps": 3}


def test_the_launcher_inside_an_allocation_reports_why_it_uses_one_node(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "typed")
    done = slurm.run("salloc", "--nodes=2", "--ntasks-per-node=1", "deepspeed", "-q", *run.command(**SHORT), timeout=120)
    assert done.returncode == 0, done.stderr
    note = next(line for line in done.stdout.splitlines() if line.startswith("note: "))
    assert (
        "this allocation has 2 nodes (node[1-2])" in note
        and f"bash launch/pretrain.sbatch launch/pretrain_text.py --data {run.data}" in note
    )
    assert run.events("start")[0]["world_size"] == 1


def test_the_printed_command_uses_all_nodes(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "typed_all")
    done = slurm.run("salloc", "--nodes=2", "--ntasks-per-node=1", "bash", SBATCH, *run.command(**SHORT), timeout=120)
    assert done.returncode == 0, done.stderr
    assert run.events("start")[0]["world_size"] == 2 and "done: checkpoint of step 3" in done.stdout


def test_each_task_of_an_array_runs_its_line_of_the_grid(slurm: Cluster, prepared: dict[str, Path]) -> None:
    grid = slurm.folder / "study" / "grid.txt"
    grid.parent.mkdir()
    flags = " ".join(["--data", str(prepared["text"]), *overrides(**SHORT)])
    own = slurm.folder / "named by itself"
    grid.write_text(f"# two seeds\nlaunch/pretrain_text.py {flags}\n\nlaunch/pretrain_text.py {flags} --set run.seed=2 --run-dir '{own}'\n")
    job = slurm.submit("--array=1-3", "launch/scaling.sbatch", grid)
    states = [slurm.wait(f"{job}_{task}") for task in (1, 2, 3)]
    said = "".join(path.read_text() for path in slurm.folder.glob(f"slurm-{job}_*.out"))
    assert states == ["COMPLETED", "COMPLETED", "FAILED"]
    assert "grid.txt has 2 lines, this is task 3; use --array=1-2" in said
    losses = [(folder / "metrics.jsonl").read_text() for folder in (grid.parent / "1", own)]
    assert losses[0] != losses[1]


def test_a_grid_that_is_not_there(slurm: Cluster) -> None:
    job = slurm.submit("--array=1", "launch/scaling.sbatch", slurm.folder / "no_grid.txt")
    assert slurm.wait(f"{job}_1") == "FAILED"
    assert "error: no grid" in "".join(path.read_text() for path in slurm.folder.glob(f"slurm-{job}_*.out"))
