"""Several seeds of a fine-tuned run on Slurm: as a job array, and in one job that is stopped in the second seed and requeued."""

from pathlib import Path

import pytest

from recipes.finetune.results import read_results
from tests.launching import read_jsonl
from tests.recipes.finetune.reviews import finetune_flags, write_reviews
from tests.slurm.cluster import Cluster

SBATCH = "launch/pretrain.sbatch"
UPDATES = 200
LONG = {"run__max_steps": UPDATES, "optim__schedule_steps": UPDATES, "run__eval_steps": 100, "run__save_steps": 100, "finetune__seeds": 2}


@pytest.fixture
def flags(slurm: Cluster) -> list[object]:
    data = write_reviews(slurm.folder / "reviews")
    return ["launch/finetune_text.py", *finetune_flags(data, slurm.folder / "tuned", **LONG)]


def values(run_dir: Path) -> list[float]:
    (entry,) = read_results(run_dir)
    return entry["metrics"]["eval_loss"]["values"]


def tensors(run_dir: Path) -> list[bytes]:
    """The files with tensors of the last checkpoint of each seed."""
    return [(run_dir / f"seed_{number}/checkpoints/step_{UPDATES:08d}/rank_00000.safetensors").read_bytes() for number in (1, 2)]


def test_an_array_and_one_job_that_is_stopped_and_requeued_have_the_same_bits_and_results(slurm: Cluster, flags: list[object]) -> None:
    run_dir = slurm.folder / "tuned"
    array = slurm.submit("--nodes=1", "--array=1-2%1", SBATCH, *flags)
    assert [slurm.wait(f"{array}_{task}") for task in (1, 2)] == ["COMPLETED", "COMPLETED"]
    expected = values(run_dir)
    run_dir.rename(slurm.folder / "array")

    job = slurm.submit("--nodes=1", SBATCH, *flags)
    metrics = run_dir / "seed_2" / "metrics.jsonl"
    slurm.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, 150, job)
    slurm.run("scancel", "--signal=USR2", "--batch", job)
    attempts = run_dir / "seed_2" / "attempts.jsonl"
    slurm.wait_until(lambda: attempts.exists() and len(read_jsonl(attempts)) > 0, 60, job)
    assert read_jsonl(attempts)[0]["kind"] == "stopped" and read_jsonl(attempts)[0]["action"] == "requeue"
    assert slurm.wait(job) == "COMPLETED"
    assert values(run_dir) == expected and tensors(run_dir) == tensors(slurm.folder / "array")
