"""The study's own log of starts: which failures count, and which process trains a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.checkpoint.layout import Counters, Manifest, write_manifest
from recipes.study.attempts import Attempts, saved_step
from recipes.study.command import open_study
from recipes.study.run_folder import Run
from tests.made_up_study import made_up_run, made_up_study


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return open_study(made_up_study(tmp_path))[2]


def test_nothing_is_written_before_the_first_start(tmp_path: Path, runs: list[Run]) -> None:
    attempts = Attempts(tmp_path / "out")
    assert (attempts.num_failures(runs[0]), attempts.process_of(runs[0])) == (0, None)
    assert attempts.state_of(runs[0]).state == "queued" and not (tmp_path / "out").exists()


def test_a_second_reader_sees_the_same(tmp_path: Path, runs: list[Run]) -> None:
    first = Attempts(tmp_path / "out")
    first.begin(runs[0], os.getpid())
    first.end(runs[0], 1, "out of memory", failed=True)
    first.begin(runs[1], os.getpid())
    with (tmp_path / "out" / "attempts.jsonl").open("a") as file:
        file.write('{"run": "incompl')
    for attempts in (first, Attempts(tmp_path / "out")):
        assert [attempts.num_failures(run) for run in runs[:3]] == [1, 0, 0]
        assert [attempts.process_of(run) for run in runs[:3]] == [None, os.getpid(), None]


def test_failures_in_a_row_count_and_a_good_end_breaks_them(tmp_path: Path, runs: list[Run]) -> None:
    attempts, run = Attempts(tmp_path / "out"), runs[0]
    for code, count in [(1, 1), (-9, 2), (None, 3), (75, 0), (2, 1), (0, 0)]:
        attempts.end(run, code, "x", failed=code not in (0, 75))
        assert attempts.num_failures(run) == count


def test_a_new_checkpoint_makes_earlier_failures_count_no_more(tmp_path: Path, runs: list[Run]) -> None:
    attempts, run = Attempts(tmp_path / "out"), runs[0]
    attempts.end(run, 1, "x", failed=True)
    attempts.end(run, 1, "x", failed=True)
    folder = run.path / "checkpoints" / "step_00000005"
    folder.mkdir(parents=True)
    write_manifest(folder, Manifest(Counters(step=5), 1, 1, {}, (), {}))
    (folder.parent / "latest").write_text(folder.name)
    assert saved_step(run) == 5
    assert attempts.num_failures(run) == 0
    attempts.end(run, 1, "x", failed=True)
    assert attempts.num_failures(run) == 1


def test_a_process_counts_until_it_ends(tmp_path: Path, runs: list[Run]) -> None:
    attempts = Attempts(tmp_path / "out")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    attempts.begin(runs[0], process.pid)
    assert Attempts(tmp_path / "out").process_of(runs[0]) == process.pid
    process.communicate(b"\n", timeout=20)
    assert attempts.process_of(runs[0]) is None


def test_the_pid_of_a_later_process_is_another_one(tmp_path: Path, runs: list[Run]) -> None:
    attempts = Attempts(tmp_path / "out")
    attempts.begin(runs[0], os.getpid())
    path = tmp_path / "out" / "attempts.jsonl"
    path.write_text(path.read_text().replace('"start": "', '"start": "9'))
    assert Attempts(tmp_path / "out").process_of(runs[0]) is None


@pytest.mark.parametrize("row", ['{"event": "begin", "run": "RUN"}', '{"event": "begin", "run": "RUN", "pid": null, "start": ""}', "[]"])
def test_a_damaged_row_is_no_process(row: str, tmp_path: Path, runs: list[Run]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "attempts.jsonl").write_text(row.replace("RUN", runs[0].key) + "\n")
    assert Attempts(tmp_path / "out").process_of(runs[0]) is None


def test_a_start_that_left_nothing_has_failed_for_its_own_reason(tmp_path: Path, runs: list[Run]) -> None:
    attempts, run = Attempts(tmp_path / "out"), runs[0]
    attempts.end(run, 2, "--data x: no such file", failed=True)
    found = attempts.state_of(run)
    assert (found.state, found.reason) == ("failed", "--data x: no such file")
    made_up_run(run, score=0.3)
    assert attempts.state_of(run).state == "done"


def test_a_failure_has_the_printed_reason_or_that_of_its_events(tmp_path: Path, runs: list[Run]) -> None:
    attempts, run = Attempts(tmp_path / "out"), runs[0]
    made_up_run(run, score=0.3, ended="failed")
    assert attempts.state_of(run).reason == "the loss is not finite"
    attempts.end(run, 3, "", failed=True)
    assert attempts.state_of(run).reason == "the loss is not finite"
    attempts.end(run, 3, "printed", failed=True)
    assert attempts.state_of(run).reason == "printed"
