"""The commands of the batch script, with a fake scontrol that logs its arguments. On a real Slurm: tests/slurm."""

import json
import os
import re
import stat
import sys
import time
from pathlib import Path

import pytest

from recipes.checkpoint.layout import Counters, Manifest, step_folder, write_manifest
from recipes.job.batch import main
from tests.distributed import run_command
from tests.launching import PRETRAIN_TEXT, overrides

FACTS = "JobId=7 JobState={state} BatchFlag={batch} Requeue={requeue} Comment=(null)"


@pytest.fixture
def scontrol_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which every call of scontrol is a line. facts.txt and script.txt contain its output. Requeueing a job ends it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = folder / "calls.txt"
    path = folder / "scontrol"
    path.write_text(
        f'#!/bin/sh\necho "scontrol $*" >>{log}\ncase $1 in show) cat {folder}/facts.txt ;; write) cat {folder}/script.txt ;;\n'
        f'requeue*) echo "the job ends here, with" $(wc -l <{tmp_path}/run/attempts.jsonl) attempts in the log ;; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "script.txt").write_text("#!/bin/bash\n#SBATCH --nodes=1  # one\n")
    (folder / "facts.txt").write_text(FACTS.format(state="RUNNING", batch=1, requeue=1))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    return log


def run_dir_with(folder: Path, code: int | None, reason: str | None = None) -> Path:
    """Make a run dir whose two ranks ended with `code` just now (None: rank 1 died without one), and a stop event with `reason`."""
    watch = folder / "run" / "watch"
    watch.mkdir(parents=True)
    (watch / "ranks.json").write_text(json.dumps(["node1", "node2"]))
    for rank in (0, 1):
        ended = "silent" if code is None and rank else {"code": code or 0, "message": ""}
        record = {"rank": rank, "host": f"node{rank + 1}", "step": 4, "phase": "data", "time": time.time(), "ended": ended}
        (watch / f"rank_{rank:05d}.json").write_text(json.dumps(record))
    events = [
        {"time": time.time(), "event": "start", "step": 0},
        *([{"time": time.time(), "event": "stop", "reason": reason}] if reason else []),
    ]
    (folder / "run" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder / "run"


def end(run_dir: Path, code: int = 0, *more: str) -> int:
    return main(["end", str(run_dir), "--code", str(code), "--since", str(time.time() - 60), *more])


def test_begin_prints_the_run_dir_of_the_command(scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["begin", str(PRETRAIN_TEXT), "--run-dir", str(tmp_path / "my runs"), *overrides()]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'my runs'}\n"
    assert not (tmp_path / "my runs").exists()


def test_begin_prints_how_an_attempt_ended_whose_batch_script_died_with_its_node(
    scontrol_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_dir_with(tmp_path, None)
    (run_dir / "watch" / "rank_00001.json").unlink()
    command = ["begin", str(PRETRAIN_TEXT), "--run-dir", str(run_dir), *overrides()]
    assert main(command) == 0 and capfd.readouterr().err == "", "the first attempt"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(command) == 0
    assert capfd.readouterr().err.startswith(
        "job 7, attempt 1, which Slurm has ended: rank 1 on node2 exited without a record: its node is gone"
    )
    (run_dir / "attempts.jsonl").write_text('{"job": "7", "restart": "0"}\n')
    assert main(command) == 0 and capfd.readouterr().err == "", "already printed"


def test_begin_fails_as_the_command_would(scontrol_log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["begin", str(PRETRAIN_TEXT), "--recipe", "other"]) == 2
    assert "--recipe other: unknown" in capfd.readouterr().err


def test_begin_requires_a_number_of_nodes(scontrol_log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (scontrol_log.parent / "script.txt").write_text("#!/bin/bash\n#SBATCH --time=1:00:00\n")
    assert main(["begin", str(PRETRAIN_TEXT)]) == 2
    assert "job 7 has 1 node, Slurm's default without --nodes; put #SBATCH --nodes=N" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "verb", "line"),
    [
        (0, "done", 0, None, "job 7, attempt 1: done"),
        (75, "SIGUSR2", 75, "scontrol requeue 7", "stopped by SIGUSR2; checkpoint of step 0 .*; requeued, try 1 of 10"),
        (2, None, 2, None, "exit code 2 .*not requeued"),
        (3, None, 3, None, "exit code 3 .*not requeued"),
        (None, None, 75, "scontrol requeue 7", "rank 1 on node2 died without an exit code .*requeued, try 1 of 3"),
        (75, "the file stop (removed)", 75, None, "not requeued, because the file stop asked for an end"),
    ],
)
def test_end_requeues_or_not_and_prints_a_line(
    scontrol_log: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    code: int | None,
    reason: str | None,
    exit_code: int,
    verb: str,
    line: str,
) -> None:
    run_dir = run_dir_with(tmp_path, code, reason)
    assert end(run_dir) == exit_code
    printed = capfd.readouterr().out
    assert re.search(line, printed)
    assert not verb or printed.endswith("the job ends here, with 1 attempts in the log\n"), printed
    calls = scontrol_log.read_text().splitlines() if scontrol_log.exists() else []
    assert [call for call in calls if " show " not in call] == ([verb] if verb else [])
    verb_in_log = json.loads((run_dir / "attempts.jsonl").read_text())["action"]
    assert (verb_in_log == "requeue") == bool(verb)


def test_progress_is_from_where_this_attempt_began_to_its_newest_checkpoint(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The events of an earlier attempt, which began at step 0 and was stopped by the file, are also in the log."""
    run_dir, now = run_dir_with(tmp_path, None), time.time()
    checkpoint = step_folder(run_dir, 6)
    checkpoint.mkdir(parents=True)
    write_manifest(checkpoint, Manifest(Counters(step=6), 1, 1, {}, (), {}))
    old = [{"time": now - 1000, "event": "start", "step": 0}, {"time": now - 900, "event": "stop", "reason": "the file stop"}]
    own = [
        {"time": now - 61, "event": "fallback", "step": 5},
        {"time": now - 10, "event": "resume", "step": 4},
    ]  # clocks differ by a second
    (run_dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*old, *own]))
    assert end(run_dir, 1, "--max-tries", "1") == 75
    assert "checkpoint of step 6 (+2 in this attempt); requeued\n" in capfd.readouterr().out
    attempt = json.loads((run_dir / "attempts.jsonl").read_text())
    assert (attempt["kind"], attempt["step"], attempt["job"], attempt["restart"]) == ("crashed", 6, "7", "0")
    with (run_dir / "events.jsonl").open("w") as file:
        file.writelines(json.dumps(event) + "\n" for event in old)
    (run_dir / "watch" / "ranks.json").unlink()
    for record in (run_dir / "watch").iterdir():
        record.unlink()
    assert end(run_dir, 143, "--asked") == 75
    assert "stopped on request before the first step; checkpoint of step 6 (+0" in capfd.readouterr().out, (
        "not the stop file of the earlier attempt"
    )


def test_after_so_many_tries_the_job_is_held_with_its_reason(scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = run_dir_with(tmp_path, None)
    assert [end(run_dir, 1, "--max-tries", "2") for _ in range(2)] == [75, 1]
    calls = [call for call in scontrol_log.read_text().splitlines() if " show " not in call]
    assert calls[0] == "scontrol requeue 7" and calls[2] == "scontrol requeuehold 7"
    assert calls[1].startswith("scontrol update JobId=7 Comment=rank 1 on node2 died without an exit code")
    assert "scontrol release 7" in capfd.readouterr().out


def test_a_task_of_a_study_that_has_used_its_tries_fails_and_is_not_held(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_dir_with(tmp_path, None)
    assert [end(run_dir, 1, "--max-tries", "2", "--give-up", "fail") for _ in range(2)] == [75, 1]
    calls = [call for call in scontrol_log.read_text().splitlines() if " show " not in call]
    assert calls == ["scontrol requeue 7"] and "given up after 2 tries without a new checkpoint" in capfd.readouterr().out


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_TASK_ID", "DATA2VEC_GRID_TASK"])
def test_one_task_of_an_array_is_requeued_and_not_the_array(
    variable: str, scontrol_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of the array is also the job number of one of its tasks."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv(variable, "3")
    assert end(run_dir_with(tmp_path, None), 1) == 75
    assert scontrol_log.read_text().splitlines() == ["scontrol show job -o 7_3", "scontrol requeue 7_3"]


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (
            {"state": "COMPLETING", "batch": 1, "requeue": 1},
            "stopped by SIGTERM; checkpoint of step 0 .*; not touched, since Slurm has ended it .COMPLETING",
        ),
        ({"state": "RUNNING", "batch": 0, "requeue": 1}, "the same command continues .this job cannot"),
        ({"state": "RUNNING", "batch": 1, "requeue": 0}, "the same command continues"),
    ],
)
def test_a_job_that_was_cancelled_or_is_no_batch_job_is_not_touched(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], facts: dict[str, object], line: str
) -> None:
    (scontrol_log.parent / "facts.txt").write_text(FACTS.format(**facts))
    assert end(run_dir_with(tmp_path, 75, "SIGTERM")) == 75
    assert '"kind": "stopped"' in (tmp_path / "run" / "attempts.jsonl").read_text()
    assert re.search(line, capfd.readouterr().out)
    assert all(" show " in call for call in scontrol_log.read_text().splitlines())


def test_ranks_that_are_still_saving_when_slurm_ends_the_job_are_not_reported_as_failed(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (scontrol_log.parent / "facts.txt").write_text(FACTS.format(state="CANCELLED", batch=1, requeue=1))
    run_dir = run_dir_with(tmp_path, None)
    for record in (run_dir / "watch").glob("rank_*"):
        record.unlink()
    end(run_dir, 143)
    printed = capfd.readouterr().out
    assert "there are no records of its ranks yet; checkpoint of step 0" in printed and "without a record" not in printed


def test_endings_of_an_earlier_attempt_do_not_count_for_this_one(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_dir_with(tmp_path, 75, "SIGUSR2")
    code = main(["end", str(run_dir), "--code", "2", "--since", str(time.time() + 60)])
    assert code == 2 and "no rank began to train, srun ended with exit code 2" in capfd.readouterr().out


def test_without_a_run_dir_nothing_is_written_and_slurm_counts_the_tries(
    scontrol_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end(tmp_path / "none", 137) == 75
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert end(tmp_path / "none", 137) == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["srun: error: node2: task 1: Exited with exit code 2", "srun: error: node1: task 0: Terminated"], 2),
        (["srun: error: node2: task 1: Exited with exit code 1", "srun: error: node1: tasks 0-3: Exited with exit code 2"], 2),
        (["srun: error: node2: task 1: Exited with exit code 247"], 75),
        (["srun: error: node2: task 1: Terminated"], 75),
        (["node1: stopped on request", "node2: stopped on request"], 75),
        (["node1: stopped on request", "srun: error: node2: task 1: Exited with exit code 2"], 2),
        ([], 75),
    ],
)
def test_the_exit_code_is_that_of_the_node_that_failed_and_not_of_killed_nodes(
    scontrol_log: Path, tmp_path: Path, lines: list[str], code: int
) -> None:
    srun_stderr = tmp_path / "stderr"
    srun_stderr.write_text("\n".join(lines) + "\n")
    assert end(tmp_path / "none", 143, "--said", str(srun_stderr)) == code
    assert not srun_stderr.exists()


def test_it_runs_as_a_module(scontrol_log: Path, tmp_path: Path) -> None:
    done = run_command([sys.executable, "-m", "recipes.job.batch", "end", str(tmp_path / "none"), "--code", "137", "--asked"], tmp_path, 30)
    assert done.returncode == 75 and "stopped on request before the first step" in done.stdout, done.stderr


def test_a_job_of_several_seeds_is_judged_by_the_seed_that_ran_last(
    scontrol_log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = run_dir_with(tmp_path, 75, "SIGUSR2").rename(tmp_path / "seed_2")
    (tmp_path / "run").mkdir()
    seed = seed.rename(tmp_path / "run" / "seed_2")
    assert end(tmp_path / "run", 75) == 75
    assert "stopped by SIGUSR2" in capfd.readouterr().out and "requeue 7" in scontrol_log.read_text()
    assert (seed / "attempts.jsonl").exists() and not (tmp_path / "run" / "attempts.jsonl").exists()
