"""The states of all runs, with what Slurm has of them, and the lines about them."""

import json
from pathlib import Path

import pytest

from recipes.study.attempts import Attempts, settings_of
from recipes.study.command import open_study
from recipes.study.progress import Progress, progress_of, state_with_slurm, status_lines, summary_line
from recipes.study.run_folder import Run
from recipes.study.run_state import RunState
from recipes.study.slurm_array import SlurmArrays
from recipes.study.study_file import Study
from tests.made_up_study import ENDINGS, made_up_run, made_up_study

HELD = "held by Slurm after its last try ({}); scontrol release 7_1"


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Study, list[Run]]:
    study, _, runs = open_study(made_up_study(tmp_path))
    return study, runs


def with_queue(study: Study, runs: list[Run], queue: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> SlurmArrays:
    """Return the arrays of a study whose job 7 has `runs`, when squeue prints `queue`."""
    study.out.mkdir(exist_ok=True)
    row = {"token": "t", "job": "7", "runs": [run.key for run in runs], "settings": [settings_of(run) for run in runs]}
    (study.out / "jobs.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "squeue").write_text(f"#!/bin/sh\nprintf '{queue}'\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return SlurmArrays(study)


def test_every_ending_has_its_line(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    for ended, run in zip(ENDINGS, runs, strict=False):
        made_up_run(run, score=0.3, ended=ended, rows=3, seconds=100.0)
    lines = list(status_lines(progress_of(study, runs)))
    assert [line.removeprefix(run.name).strip() for line, run in zip(lines, runs, strict=False)] == [
        "done     20 steps",
        "stopped  step 20/20, stopped by SIGTERM",
        "failed   the loss is not finite",
        "failed   a rank hung; its events.jsonl has the rank",
        "failed   killed at step 20, without a record of its end",
        "running  step 20/20, ETA 0 s",
        "queued",
        "queued",
    ]
    assert lines[-1] == "8 runs: 3 failed, 2 queued, 1 done, 1 stopped, 1 running"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.0, ", ETA 0 s"), (119, ", ETA 119 s"), (120, ", ETA 2 min"), (7199, ", ETA 120 min"), (9000, ", ETA 2.5 h")],
)
def test_the_time_left_has_a_unit_that_fits(seconds: float | None, text: str, opened: tuple[Study, list[Run]]) -> None:
    line, _ = status_lines([Progress(opened[1][0], RunState("running", 5, seconds))])
    assert line.endswith(f"running  step 5/20{text}")


def test_no_runs_have_a_summary() -> None:
    assert list(status_lines([])) == [summary_line([])] and summary_line([]).startswith("0 runs")


def test_a_failed_start_is_reported(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    Attempts(study.out).end(runs[0], 2, "no data", failed=True)
    assert [one.state.state for one in progress_of(study, runs)] == ["failed"] + ["queued"] * 7


@pytest.mark.parametrize(
    ("queue", "found", "state", "reason"),
    [
        ("7 1 t PENDING Resources", RunState("queued"), "queued", ""),
        ("7 1 t PENDING BeginTime", RunState("failed", 3, reason="x"), "queued", ""),
        ("7 1 t RUNNING None", RunState("queued"), "running", ""),
        ("7 1 t RUNNING None", RunState("done", 20), "done", ""),
        ("7 1 t PENDING JobHeldUser", RunState("queued"), "queued", ""),
        ("7 1 t PENDING job requeued in held state", RunState("failed", 3, reason="x"), "failed", HELD.format("x")),
        ("7 1 t PENDING launch_failed_requeued_held", RunState("queued"), "failed", HELD.format("no error is printed")),
        ("", RunState("queued"), "failed", "job 7_1 is gone without a record"),
        ("", RunState("failed", 3, reason="x"), "failed", "x"),
        ("", RunState("stopped", 3, reason="stopped by SIGUSR2"), "stopped", "stopped by SIGUSR2"),
        ("", RunState("running", 3, 1.0), "running", ""),
    ],
)
def test_slurm_corrects_the_state(
    queue: str, found: RunState, state: str, reason: str, opened: tuple[Study, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = with_queue(opened[0], opened[1][:1], queue, monkeypatch, tmp_path)
    now = state_with_slurm(opened[1][0], found, arrays)
    assert (now.state, now.reason) == (state, reason) and now.step == found.step
    assert state_with_slurm(opened[1][1], found, arrays) == found, "a run that was not submitted"


def test_a_task_that_is_gone_has_its_printed_reason(
    opened: tuple[Study, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = with_queue(opened[0], opened[1][:1], "", monkeypatch, tmp_path)
    (opened[0].out / "logs").mkdir()
    (opened[0].out / "logs" / "slurm-7_1.out").write_text("error: no such data\n")
    assert state_with_slurm(opened[1][0], RunState("queued"), arrays).reason == "no such data"
