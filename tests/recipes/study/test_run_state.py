"""What has become of a run, from made-up run dirs."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from recipes.run_dir.lock import Owner
from recipes.study.command import open_study
from recipes.study.run_folder import Run
from recipes.study.run_state import RunState, is_owned, state_of
from tests.made_up_study import made_up_run, made_up_study

STEPS = 20


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_study(made_up_study(tmp_path))[2][0]


def test_a_run_without_a_folder_is_queued(run: Run) -> None:
    assert state_of(run.path, STEPS) == RunState("queued")


@pytest.mark.parametrize(
    ("ended", "state", "reason"),
    [
        ("done", "done", ""),
        ("stopped", "stopped", "stopped by SIGTERM"),
        ("failed", "failed", "the loss is not finite"),
        ("hung", "failed", "a rank hung; its events.jsonl has the rank"),
        ("killed", "failed", "killed at step 20, without a record of its end"),
        ("running", "running", ""),
    ],
)
def test_the_last_event_and_the_lock_give_the_state(ended: str, state: str, reason: str, run: Run) -> None:
    made_up_run(run, score=0.3, ended=ended)
    found = state_of(run.path, STEPS)
    assert (found.state, found.step, found.reason) == (state, STEPS, reason)


def test_a_run_that_was_resumed_has_the_state_of_its_last_launch(run: Run) -> None:
    made_up_run(run, score=0.3, ended="failed")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "resume", "time": 1.8e9, "step": 20}\n{"event": "save", "time": 1.8e9}\n')
    assert state_of(run.path, STEPS).reason == "killed at step 20, without a record of its end"
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "stop", "reason": "done"}\n{"event": "st')
    assert state_of(run.path, STEPS).state == "done"


def test_a_running_run_has_the_seconds_that_are_left(run: Run) -> None:
    made_up_run(run, score=None, seconds=2.0, rows=4, ended="running")
    rows = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(rows[:2]) + rows[2][:30])
    assert state_of(run.path, STEPS) == RunState("running", 10, 20.0)
    (run.path / "metrics.jsonl").write_text("")
    assert state_of(run.path, STEPS) == RunState("running", 0, None)


@pytest.mark.parametrize("row", ["{}", '{"step": null}', '{"step": "x"}', '{"step": 5, "step_seconds": "x"}', '{"step": NaN}'])
@pytest.mark.parametrize("ended", ["done", "running"])
def test_a_damaged_row_is_no_error(row: str, ended: str, run: Run) -> None:
    made_up_run(run, score=0.3, ended=ended)
    (run.path / "metrics.jsonl").write_text(row + "\n")
    assert state_of(run.path, STEPS).state == ended


def test_a_lock_counts_while_its_owner_lives(run: Run) -> None:
    made_up_run(run, score=0.3, ended="running")
    lock = run.path / ".lock"
    assert is_owned(run.path)
    lock.write_text(json.dumps(asdict(replace(Owner.this_process(), start="1"))))
    assert not is_owned(run.path), "the pid belongs to a later process"
    elsewhere = json.dumps(asdict(replace(Owner.this_process(), boot="another", host="another")))
    lock.write_text(elsewhere)
    assert is_owned(run.path)
    os.utime(lock, (1, 1))
    assert not is_owned(run.path), "no heartbeat"
    lock.write_text("")
    assert is_owned(run.path), "a lock that is just being written"
    lock.unlink()
    assert not is_owned(run.path) and not is_owned(run.path / "missing")
