"""Job arrays, with commands of Slurm that are shell scripts: they record their arguments and print what a test says."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.study.command import open_study
from recipes.study.run_command import ROOT, arguments
from recipes.study.run_folder import Run
from recipes.study.slurm_array import ArrayOptions, SlurmArrays
from recipes.study.study_file import Study
from recipes.system.json_lines import read_rows
from tests.made_up_study import made_up_study

SBATCH = """#!/bin/sh
[ -f "$SLURM_FAKE/fails" ] && { /bin/cat "$SLURM_FAKE/fails" >&2; exit 1; }
printf '%s\\n' "$PWD" "RANKS_PER_NODE=$RANKS_PER_NODE MAX_TRIES=$MAX_TRIES WANDB_RUN_GROUP=$WANDB_RUN_GROUP" "$@" >> "$SLURM_FAKE/calls"
n=$(/bin/cat "$SLURM_FAKE/n" 2>/dev/null || echo 40); n=$((n + 1)); echo $n > "$SLURM_FAKE/n"
echo "$n;cluster"
"""
SQUEUE = """#!/bin/sh
[ -f "$SLURM_FAKE/squeue_fails" ] && { echo "squeue: error: no server" >&2; exit 1; }
/bin/cat "$SLURM_FAKE/queue" 2>/dev/null; exit 0
"""
ALONE = ArrayOptions(None, 3, ())


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the made-up Slurm: calls (what sbatch got), queue (what squeue prints), fails (what sbatch prints before it fails)."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))  # this machine may have a real Slurm
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    return folder


def opened(folder: Path, **keys: Any) -> tuple[Study, list[Run], dict[str, Path]]:
    study, _, runs = open_study(made_up_study(folder, **keys))
    return study, runs, {run.key: folder / "data" for run in runs}


def calls(slurm: Path) -> list[str]:
    return (slurm / "calls").read_text().splitlines()


def test_all_runs_of_one_shape_are_one_array(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    (line,) = SlurmArrays(study).submit(runs, data, ArrayOptions(3, 4, ("--partition=gpu", "--time=2:00:00")))
    (grid,) = (tmp_path / "out" / "grids").iterdir()
    assert line == f"job 41: 8 runs on 1 x 1 ranks each, at most 3 at a time; {grid}"
    assert calls(slurm) == [
        str(ROOT),
        "RANKS_PER_NODE=1 MAX_TRIES=4 WANDB_RUN_GROUP=made_up",
        *(
            "--parsable",
            "--array=1-8%3",
            "--nodes=1",
            "--job-name=made_up",
            f"--comment={grid.stem}",
            f"--output={tmp_path}/out/logs/slurm-%A_%a.out",
        ),
        *("--partition=gpu", "--time=2:00:00", "launch/scaling.sbatch", str(grid)),
    ]
    assert (ROOT / "launch" / "scaling.sbatch").exists()
    lines = grid.read_text().splitlines()
    assert [shlex.split(one) for one in lines] == [["launch/pretrain_text.py", *arguments(study, run, data[run.key])] for run in runs]


def test_there_is_an_array_for_each_number_of_nodes(slurm: Path, tmp_path: Path) -> None:
    keys = {"base": "text_base", "deepspeed_config": "zero3_bf16", "cluster": "gpus=8,device=h100", "metric": "loss", "seeds": [1]}
    study, runs, data = opened(tmp_path, axes={"ranks": [32, 8, 16, 4], "run.max_steps": [100, 200]}, **keys)
    lines = SlurmArrays(study).submit(runs, data, ALONE)
    shapes = ["1 x 4", "1 x 8", "2 x 8", "4 x 8"]
    assert [line.partition(" runs on ")[2].partition(" ranks")[0] for line in lines] == shapes
    assert [word for word in calls(slurm) if word.startswith("--array")] == ["--array=1-2"] * 4
    assert [word for word in calls(slurm) if word.startswith("--nodes")] == ["--nodes=1", "--nodes=1", "--nodes=2", "--nodes=4"]
    rows, _ = read_rows(tmp_path / "out" / "jobs.jsonl")
    submitted, numbered = rows[::2], rows[1::2]
    assert [row["job"] for row in numbered] == ["41", "42", "43", "44"]
    assert [row["token"] for row in submitted] == [row["token"] for row in numbered] == [Path(row["grid"]).stem for row in submitted]
    assert sorted(key for row in submitted for key in row["runs"]) == sorted(run.key for run in runs)


def test_a_task_has_its_state_and_its_log(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    SlurmArrays(study).submit(runs[:4], data, ALONE)
    (slurm / "queue").write_text(
        "41 1 t RUNNING None\n41 2 t PENDING Priority\n41 3 t PENDING job requeued in held state\n"
        "99 4 (null) RUNNING None\n7 N/A (null) PENDING (Resources)\n41 4 t COMPLETING None\n"
    )
    arrays = SlurmArrays(study)
    assert [arrays.queue_state(run) for run in runs[:5]] == ["RUNNING", "PENDING", "HELD", "COMPLETING", ""]
    task = arrays.last_task(runs[1])
    assert task is not None and task.log == tmp_path / "out" / "logs" / "slurm-41_2.out"
    assert arrays.last_task(runs[4]) is None


def test_tasks_that_began_with_the_present_settings_count_as_starts(slurm: Path, tmp_path: Path) -> None:
    """Tasks that were cancelled in the queue have no log; a file that has changed gives a run new tries."""
    study, runs, data = opened(tmp_path)
    for _ in range(3):
        SlurmArrays(study).submit(runs[:2], data, ALONE)
    assert SlurmArrays(study).num_starts(runs[0]) == 0, "no task has begun"
    for job in (41, 43):
        (tmp_path / "out" / "logs" / f"slurm-{job}_1.out").touch()
    assert [SlurmArrays(study).num_starts(run) for run in runs[:3]] == [2, 0, 0]
    study, runs, data = opened(tmp_path, set={"run.log_steps": 2})
    assert SlurmArrays(study).num_starts(runs[0]) == 0


def test_with_a_limit_arrays_run_one_after_the_other(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.study.slurm_array.MOST_TASKS", 3)
    study, runs, data = opened(tmp_path)
    lines = SlurmArrays(study).submit(runs, data, ArrayOptions(2, 3, ()))
    assert [word for word in calls(slurm) if word.startswith("--dep")] == ["--dependency=afterany:41", "--dependency=afterany:42"]
    assert "ranks each, at most 2 at a time;" in lines[0] and "at most 2 at a time, after job 41;" in lines[1]


def test_nothing_is_submitted_that_cannot_be_written_down(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, runs, data = opened(tmp_path)
    arrays = SlurmArrays(study)

    def full(data: bytes, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recipes.system.json_lines.append_whole", full)
    with pytest.raises(ConfigError, match=r"jobs.jsonl cannot be written; nothing is submitted; free the disk"):
        arrays.submit(runs, data, ALONE)
    (study.out / "grids").rename(study.out / "other")
    (study.out / "grids").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(File exists\); nothing is submitted; give the command again"):
        arrays.submit(runs, data, ALONE)
    assert not (slurm / "calls").exists()


def test_the_last_of_several_tasks_counts(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    SlurmArrays(study).submit(runs, data, ALONE)
    SlurmArrays(study).submit(runs[2:3], data, ALONE)
    (slurm / "queue").write_text("41 3 t RUNNING None\n42 1 u PENDING None\n")
    arrays = SlurmArrays(study)
    task = arrays.last_task(runs[2])
    assert task is not None and (task.job, task.number) == ("42", 1)
    assert arrays.queue_state(runs[2]) == "PENDING" and len(list((tmp_path / "out" / "grids").iterdir())) == 2


def test_an_error_of_sbatch_is_one_line_and_no_job(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    (slurm / "fails").write_text("sbatch: note\nsbatch: error: invalid partition\n")
    with pytest.raises(ConfigError, match=r"^sbatch: sbatch: error: invalid partition; the other options of sbatch come behind --sbatch$"):
        SlurmArrays(study).submit(runs, data, ALONE)
    assert SlurmArrays(study).last_task(runs[0]) is None
    (slurm / "fails").write_text("")
    with pytest.raises(ConfigError, match="sbatch: exit code 1"):
        SlurmArrays(study).submit(runs, data, ALONE)


def test_an_error_of_squeue_has_a_remedy_of_its_own(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    SlurmArrays(study).submit(runs, data, ALONE)
    (slurm / "squeue_fails").touch()
    with pytest.raises(ConfigError, match="no server") as found:
        SlurmArrays(study)
    assert "--sbatch" not in str(found.value)


def test_without_slurm_the_remedy_is_local(slurm: Path, tmp_path: Path) -> None:
    study, runs, data = opened(tmp_path)
    (slurm / "sbatch").unlink()
    with pytest.raises(ConfigError, match="there is no sbatch on this machine, so no Slurm; --local N"):
        SlurmArrays(study).submit(runs, data, ALONE)


def test_a_study_that_was_never_submitted_needs_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    study, runs, _ = opened(tmp_path)
    assert SlurmArrays(study).queue_state(runs[0]) == ""


def test_an_array_whose_number_was_not_written_down_is_known_by_its_comment(slurm: Path, tmp_path: Path) -> None:
    """`submit` was killed while sbatch ran. Else the next one would submit the same runs again."""
    study, runs, data = opened(tmp_path)
    SlurmArrays(study).submit(runs, data, ALONE)
    log = tmp_path / "out" / "jobs.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert SlurmArrays(study).last_task(runs[0]) is None, "sbatch may have failed"
    (slurm / "queue").write_text(f"41 1 {json.loads(log.read_text())['token']} PENDING None\n")
    arrays = SlurmArrays(study)
    assert arrays.queue_state(runs[0]) == "PENDING"


def test_a_large_study_is_several_arrays(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.study.slurm_array.MOST_TASKS", 3)
    study, runs, data = opened(tmp_path)
    assert len(SlurmArrays(study).submit(runs, data, ALONE)) == 3
    assert [word for word in calls(slurm) if word.startswith("--array")] == ["--array=1-3", "--array=1-3", "--array=1-2"]
