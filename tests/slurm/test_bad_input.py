"""The user's mistakes on a cluster: one line with the number or the node, exit code 2, and no retry."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.launching import ROOT, overrides
from tests.slurm.cluster import HERE, Cluster
from tests.slurm.runs import SBATCH, Run


@pytest.fixture
def run(slurm: Cluster, prepared: dict[str, Path], request: pytest.FixtureRequest) -> Run:
    return Run(slurm, prepared["text"], slurm.folder / request.node.name[:60])


def refused(run: Run, job: str, *words: str) -> None:
    """Assert that the job ended with exit code 2 and one line that has all the words."""
    state, said = run.slurm.wait(job), run.slurm.output(job)
    assert (state, run.slurm.facts(job)["ExitCode"], run.slurm.facts(job)["Restarts"]) == ("FAILED", "2:0", "0")
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words)
    assert not run.events("start", "resume")


@contextmanager
def hidden(slurm: Cluster, node: str, path: Path, instead: Path) -> Iterator[None]:
    """In this block, `instead` is mounted at `path` on one node."""
    assert slurm.on_node(node, "mount", "--bind", instead, path).returncode == 0
    try:
        yield
    finally:
        slurm.on_node(node, "umount", path)


def test_no_number_of_nodes(run: Run) -> None:
    script = run.slurm.folder / "without.sbatch"
    script.write_text("".join(line for line in (ROOT / SBATCH).read_text().splitlines(True) if "#SBATCH --nodes" not in line))
    refused(run, run.slurm.submit(script, *run.command()), "has 1 node", "default without --nodes", "#SBATCH --nodes=N")


def test_tensor_parallelism_that_is_larger_than_a_node(run: Run) -> None:
    content = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text()) | {"megatron": {"tensor_model_parallel_size": 2}}
    path = run.slurm.folder / "tp_across.json"
    path.write_text(json.dumps(content))
    job = run.slurm.submit(SBATCH, *run.command(), "--deepspeed_config", path)
    refused(run, job, "tensor_model_parallel_size 2 does not fit into a node of 1 ranks", "across_nodes")


def test_tensor_parallelism_across_nodes_if_requested(run: Run) -> None:
    asked = {"megatron": {"tensor_model_parallel_size": 2, "across_nodes": True}}
    path = run.slurm.folder / "tp_asked.json"
    path.write_text(json.dumps(json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text()) | asked))
    words = ["python", *run.command(run__max_steps=3), "--deepspeed_config", path]
    done = run.slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", *words, timeout=120)
    assert done.returncode == 0 and "tensor-parallel 2" in done.stdout, done.stderr


def test_a_run_dir_on_a_disk_of_the_node(run: Run) -> None:
    job = run.slurm.submit(SBATCH, "--data", run.data, "--run-dir", "/tmp/node_local", *overrides(run__max_steps=2))
    refused(run, job, "node2", "run dir is not the one that node1 sees", "all nodes share")


def test_the_same_without_preflight_is_found_by_the_world_check(run: Run) -> None:
    words = ["python", "launch/pretrain_text.py", "--data", run.data, "--run-dir", "/tmp/node_local", *overrides(run__max_steps=2)]
    done = run.slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", *words, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and len(lines) == 1 and "node2 (1 of 2 nodes) do not see what node1 wrote there" in lines[0], done.stderr


def test_a_node_without_the_checkout(run: Run, tmp_path: Path) -> None:
    empty = run.slurm.folder / "empty"
    empty.mkdir()
    with hidden(run.slurm, "node2", ROOT / "launch", empty):
        refused(run, run.submit(), "node2 has no", "pretrain_text.py", "all nodes must see the checkout")


def test_a_node_with_another_version(run: Run) -> None:
    other = run.slurm.folder / "errors.py"
    other.write_text((ROOT / "recipes" / "errors.py").read_text() + "\n# another version\n")
    with hidden(run.slurm, "node2", ROOT / "recipes" / "errors.py", other):
        refused(run, run.submit(), "node2", "checkout")
        done = run.slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", "python", *run.command(), timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and len(lines) == 1 and "node2 (1 of 2 ranks): checkout is" in lines[0], done.stderr


def test_a_port_in_use(run: Run) -> None:
    port = "23456"
    words = [HERE / "slurm-node", "exec", run.slurm.folder, "node1", "python", "-m", "http.server", port]
    with subprocess.Popen(words, env=run.slurm.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as taken:
        try:
            run.slurm.wait_until(lambda: f":{port}" in run.slurm.on_node("node1", "ss", "-ltn").stdout, 20, "0")
            refused(run, run.submit(env={"MASTER_PORT": port}), f"port {port}", "node1", "in use", "MASTER_PORT")
        finally:
            taken.kill()


def test_an_unknown_argument_fails_before_anything_is_started(run: Run) -> None:
    job = run.slurm.submit(SBATCH, *run.command(), "--set", "optim.warmup=1")
    refused(run, job, "did you mean optim.warmup_steps")
    assert "fit:" not in run.slurm.output(job), "the dry run comes first"
    job = run.slurm.submit(SBATCH, *run.command(), "--no-such-flag")
    assert run.slurm.wait(job) == "FAILED" and run.slurm.facts(job)["ExitCode"] == "2:0"
    assert "error: --no-such-flag: there is no such flag" in run.slurm.output(job)
