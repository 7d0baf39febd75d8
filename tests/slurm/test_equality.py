"""A run learns the same for every way to start it: one process here, two nodes with one or two processes each, tensor parallelism inside
the node, under sbatch with deepspeed, plain srun, or torchrun."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.launching import PRETRAIN, ROOT, launch, overrides, read_jsonl
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SBATCH

STEPS = 20
NUMBERS: dict[str, object] = {
    **{"run__max_steps": STEPS, "run__log_steps": 1, "run__eval_steps": STEPS, "optim__warmup_steps": 5},
    **{"model__num_layers": 2, "model__hidden_size": 32, "teacher__average_top_k_layers": 2, "data__heldout_fraction": None},
    **{"model__hidden_dropout": 0, "model__attention_dropout": 0, "model__block__layerdrop": 0, "model__block__drop_path": 0},
}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def one_process(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """Modality -> metrics of 20 steps on one process."""
    rows = {}
    for modality, data in prepared.items():
        run_dir = tmp_path_factory.mktemp(modality) / "run"
        done = launch(
            PRETRAIN[modality], ["--data", data, "--run-dir", run_dir, *overrides(modality, **NUMBERS)], run_dir.parent, timeout=120
        )
        assert done.returncode == 0, done.stderr
        rows[modality] = read_jsonl(run_dir / "metrics.jsonl")
    return rows


def check_equal(rows: Rows, reference: Rows, world_size: int, tp_size: int) -> None:
    """Assert that loss and gradient norm agree: relative difference 1e-5 for five steps, 1e-4 for all."""
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {(row["world_size"], row["tp_size"]) for row in rows} == {(world_size, tp_size)}
    for row, other in zip(rows, reference, strict=True):
        tolerance = 1e-5 if row["step"] <= 5 else 1e-4
        assert row["samples"] == other["samples"] and row["masked_fraction"] == other["masked_fraction"]
        for key in ("loss", "grad_norm"):
            assert row[key] == pytest.approx(other[key], rel=tolerance), f"{key} of step {row['step']}"


def command(modality: str, prepared: dict[str, Path], run_dir: Path, *more: object) -> list[object]:
    return [f"launch/pretrain_{modality}.py", "--data", prepared[modality], "--run-dir", run_dir, *more, *overrides(modality, **NUMBERS)]


@pytest.mark.parametrize("modality", PRETRAIN)
def test_two_nodes_with_two_processes_each_tp_inside_the_node_under_sbatch(
    slurm: Cluster, prepared: dict[str, Path], one_process: dict[str, Rows], modality: str
) -> None:
    config = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text()) | {"megatron": {"tensor_model_parallel_size": 2}}
    path, run_dir = slurm.folder / "tp2.json", slurm.folder / f"sbatch_{modality}"
    path.write_text(json.dumps(config))
    job = slurm.submit(SBATCH, *command(modality, prepared, run_dir, "--deepspeed_config", path), RANKS_PER_NODE="2")
    assert slurm.wait(job) == "COMPLETED"
    check_equal(read_jsonl(run_dir / "metrics.jsonl"), one_process[modality], 4, 2)


@pytest.mark.parametrize("modality", PRETRAIN)
def test_two_nodes_with_one_process_each_under_plain_srun(
    slurm: Cluster, prepared: dict[str, Path], one_process: dict[str, Rows], modality: str
) -> None:
    run_dir = slurm.folder / f"srun_{modality}"
    done = slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", "python", *command(modality, prepared, run_dir), timeout=120)
    assert done.returncode == 0, done.stderr
    check_equal(read_jsonl(run_dir / "metrics.jsonl"), one_process[modality], 2, 1)


def test_two_nodes_with_two_processes_each_under_torchrun(slurm: Cluster, prepared: dict[str, Path], one_process: dict[str, Rows]) -> None:
    run_dir = slurm.folder / "torchrun"
    rendezvous = f"--rdzv_backend=c10d --rdzv_endpoint=node1:{25_000 + os.getpid() % 1000} --rdzv_id=1 --nnodes=2 --nproc_per_node=2"
    words = ["torchrun", *rendezvous.split(), *command("text", prepared, run_dir)]
    done = slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", *words, timeout=150)
    assert done.returncode == 0, done.stderr
    check_equal(read_jsonl(run_dir / "metrics.jsonl"), one_process["text"], 4, 1)


def test_two_processes_on_each_node_under_plain_srun_get_their_ranks(
    slurm: Cluster, prepared: dict[str, Path], one_process: dict[str, Rows]
) -> None:
    run_dir = slurm.folder / "srun_2x2"
    done = slurm.run("srun", "--nodes=2", "--ntasks-per-node=2", "python", *command("text", prepared, run_dir), timeout=150)
    assert done.returncode == 0, done.stderr
    check_equal(read_jsonl(run_dir / "metrics.jsonl"), one_process["text"], 4, 1)
    assert json.loads((run_dir / "watch" / "ranks.json").read_text()).count("node1") == 2
