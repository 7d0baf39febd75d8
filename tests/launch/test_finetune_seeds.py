"""Several seeds of a fine-tuning command as a user runs it: Ctrl-C in the second one, continued, and as a Slurm array."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from recipes.finetune.results import read_results
from tests.launching import launch, read_jsonl, refused, start
from tests.recipes.finetune.reviews import FINETUNE_TEXT, finetune_flags, write_reviews

PATHS = ("checkpoints", "predictions", "data")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "data")


def results(run_dir: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in PATHS} for entry in read_results(run_dir)]


@pytest.mark.slow
def test_ctrl_c_in_the_second_seed_stops_all_and_the_same_command_gives_the_same_results(data: Path, tmp_path: Path) -> None:
    long = {"run__max_steps": 200, "optim__schedule_steps": 200, "run__eval_steps": 100, "run__save_steps": 100, "finetune__seeds": 2}
    undisturbed, flags = finetune_flags(data, tmp_path / "a", **long), finetune_flags(data, tmp_path / "b", **long)
    for task, one in (("1", undisturbed), ("2", undisturbed), ("1", flags)):  # tasks of an array start faster than new processes do
        done = launch(FINETUNE_TEXT, one, tmp_path, env={"SLURM_ARRAY_TASK_ID": task}, timeout=200)
        assert done.returncode == 0, done.stderr
    metrics = tmp_path / "b" / "seed_2" / "metrics.jsonl"
    running = start(FINETUNE_TEXT, flags, tmp_path)
    running.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, 150)
    os.kill(running.process.pid or 0, signal.SIGINT)
    stopped = running.wait()
    assert stopped.returncode == 75, stopped.stderr
    assert "stopped by SIGINT at step" in stopped.stdout and read_results(tmp_path / "b") == []
    assert read_jsonl(tmp_path / "b" / "seed_2" / "events.jsonl")[-1]["event"] == "stop"
    continued = launch(FINETUNE_TEXT, flags, tmp_path, timeout=200)
    assert continued.returncode == 0 and "seed 1 of 2" not in continued.stdout
    assert results(tmp_path / "b") == results(tmp_path / "a")
    assert len(set(results(tmp_path / "a")[0]["metrics"]["eval_loss"]["values"])) == 2, "the seeds differ"


@pytest.mark.slow
def test_tasks_of_a_slurm_array_run_one_seed_each_on_data_that_one_has_prepared(data: Path, tmp_path: Path) -> None:
    flags = finetune_flags(data, tmp_path / "run", finetune__seeds=2)
    shown = launch(FINETUNE_TEXT, [*flags, "--dry-run"], tmp_path, env={"SLURM_ARRAY_TASK_ID": "2"})
    assert f"run dir: {tmp_path / 'run' / 'seed_2'}" in shown.stdout and '"seed": 2' in shown.stdout
    first, second = (launch(FINETUNE_TEXT, flags, tmp_path, env={"SLURM_ARRAY_TASK_ID": task}) for task in ("2", "1"))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "1 of 2 seeds are scored" in first.stdout and "prepared labelled samples" not in second.stdout
    assert "test (13 samples, 2 seeds): accuracy" in second.stdout
    (entry,) = read_results(tmp_path / "run")
    own = [read_results(tmp_path / "run" / f"seed_{number}")[0]["mean"] for number in (1, 2)]
    assert entry["values"] == own and entry["seeds"] == [1, 2]
    refused(launch(FINETUNE_TEXT, flags, tmp_path, env={"SLURM_ARRAY_TASK_ID": "3"}), "submit with --array=1-2")


def test_a_dry_run_of_several_seeds_trains_nothing(data: Path, tmp_path: Path) -> None:
    done = launch(FINETUNE_TEXT, [*finetune_flags(data, tmp_path / "run", finetune__seeds=2), "--dry-run"], tmp_path)
    assert done.returncode == 0 and f"run dir: {tmp_path / 'run'}\n" in done.stdout
    assert not (tmp_path / "run").exists()
