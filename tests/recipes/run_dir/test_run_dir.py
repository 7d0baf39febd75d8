"""A run directory has one owner and one recipe. Its logs survive a crash. A launch without a run leaves nothing."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.run_dir.run_dir import RunDir
from recipes.settings import recipe_to_dict
from recipes.text import text_tiny
from tests.distributed import run_command, run_distributed
from tests.durability import durable_moves
from tests.launching import ROOT
from tests.recipes.train.faulty import ONE, UNDISTURBED, prepare_pictures, run_rank


def begun(path: Path, recipe: Recipe) -> RunDir:
    run_dir = RunDir(path)
    run_dir.save_config({"recipe": recipe_to_dict(recipe), "versions": {}, "data_fingerprint": "a" * 64})
    return run_dir


def test_a_second_owner_is_refused_and_the_error_names_the_first(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run is in use by pid \d+ on \S+ since [-\d]+ [:\d]+; wait for it, stop it, or name another"):
        RunDir(tmp_path / "run")
    first.save_config({})
    first.release()
    RunDir(tmp_path / "run").release()


def test_config_and_shortened_metrics_survive_a_power_cut(tmp_path: Path) -> None:
    with durable_moves(tmp_path) as recorder:
        run_dir = RunDir(tmp_path / "made" / "on the way")
        run_dir.save_config({"first": 1})
        (run_dir.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        assert run_dir.open_metrics(1).lost_steps == 1
    assert [Path(name).name for name in recorder.moves] == ["config.json", "metrics.jsonl"]


def test_a_file_or_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        RunDir(tmp_path / "file")
    with pytest.raises(ConfigError, match="Not a directory; name a folder that you may write to"):
        RunDir(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="name a folder that you may write to"):
        RunDir(Path("/proc/run"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_launch_without_a_run_leaves_the_folders_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    RunDir(tmp_path / "there" / "a" / "b").release()
    RunDir(tmp_path / "there").release()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"], "the user's empty folder stays, those of the launch are removed"


def test_a_folder_with_other_files_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    (tmp_path / "run" / "prepared").mkdir()
    run_dir.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "prepared"]


def test_a_run_that_began_keeps_everything(tmp_path: Path) -> None:
    begun(tmp_path / "run", text_tiny()).release()
    assert (tmp_path / "run" / "config.json").exists()


def test_events_are_appended_with_time_and_facts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.event("start", step=0)
    run_dir.event("save", step=3, seconds=0.5)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("start", 0), ("save", 3)]
    assert events[0]["time"] <= events[1]["time"] and events[1]["seconds"] == 0.5


@pytest.mark.parametrize("torn", ["", '{"step": 3, "lo'])
def test_metrics_after_the_checkpoint_and_an_incomplete_line_are_removed(tmp_path: Path, torn: str) -> None:
    run_dir = RunDir(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4)) + torn)
    run_dir.open_metrics(2).lines.append({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_removed_rows_are_returned_as_steps_and_seconds(tmp_path: Path) -> None:
    """step_seconds is a mean since the previous row: 2 steps of 0.5 s after step 5, then 3 of 1 s."""
    run_dir = RunDir(tmp_path / "run")
    rows = [{"step": step, "step_seconds": seconds} for step, seconds in ((1, 9.0), (4, 9.0), (7, 0.5), (10, 1.0))]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_dir.open_metrics(5)[1:] == (5, 4.0)
    assert run_dir.open_metrics(5)[1:] == (0, 0.0)


def test_damaged_rows_are_removed_with_a_warning(tmp_path: Path) -> None:
    lines: list[str] = []
    run_dir = RunDir(tmp_path / "run", lines.append)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"stop": 2}\n{"step": 3}\n')
    assert run_dir.open_metrics(3)[1:] == (0, 0.0)
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n' and lines == [f"warning: 2 damaged lines of {path} were taken out"]


def test_metrics_of_a_new_run_are_empty_and_metrics_without_lost_rows_are_not_rewritten(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    assert run_dir.open_metrics(0)[1:] == (0, 0.0)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    before = path.stat().st_ino
    run_dir.open_metrics(1)
    assert path.read_text() == '{"step": 1}\n' and path.stat().st_ino == before


def test_last_seen_is_the_newest_time_of_logs_and_lock_before_this_launch(tmp_path: Path) -> None:
    assert RunDir(tmp_path / "new").last_seen is None
    (tmp_path / "run").mkdir()
    for name, seconds in (("events.jsonl", 50), ("metrics.jsonl", 70), (".lock", 60)):
        (tmp_path / "run" / name).write_text("")
        os.utime(tmp_path / "run" / name, (seconds, seconds))
    (tmp_path / "run" / ".lock").unlink()  # otherwise its heartbeat would be watched for half a minute
    assert RunDir(tmp_path / "run").last_seen == 70


def test_nothing_is_written_into_a_run_dir_that_was_taken_over(tmp_path: Path) -> None:
    run_dir = begun(tmp_path / "run", text_tiny())
    run_dir.event("start", step=0)
    lock = tmp_path / "run" / ".lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"pid": 7, "host": "elsewhere"}))
    with pytest.raises(ConfigError, match=r"was taken over by pid 7 on elsewhere since .*; it ends without writing more"):
        run_dir.check()
    assert run_dir.is_lost
    run_dir.event("save", step=1)
    run_dir.release()
    assert [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()] == ["start"]
    assert lock.exists()


FULL = """
import resource, signal, sys
from pathlib import Path
from recipes.errors import ConfigError
from recipes.run_dir.run_dir import RunDir

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run_dir = RunDir(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
try:
    run_dir.save_config({"recipe": "x" * 100})
except ConfigError as error:
    print(error)
"""


def test_a_config_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    done = run_command([sys.executable, "-c", FULL, tmp_path / "run"], ROOT, 30)
    assert done.stderr == "" and not (tmp_path / "run" / "config.json").exists()
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/run/config.json cannot be written (File too large), ") and "bytes free on that disk; fix" in line


def run_that_is_taken_over(run_dir: Path, prepared: Path) -> tuple[str, int]:
    """Train until another launch takes the directory after the second update, long before a save. Returns error and update count."""
    from recipes.train import loop

    done, train_step = list[int](), loop.train_step

    def taken_over(state: Any, logs: bool) -> Any:
        if state.step == 2:
            (run_dir / ".lock").write_text("another launch\n")
            with suppress(ConfigError):
                state.run_dir.check()  # as the next heartbeat of the lock would do
        metrics = train_step(state, logs)
        done.append(state.step)
        return metrics

    loop.train_step = taken_over
    try:
        run_rank(run_dir, prepared, ONE, UNDISTURBED, {}, {"run__max_steps": 6, "run__save_steps": 100})
    except ConfigError as error:
        return str(error), len(done)
    return "trained", len(done)


def test_a_run_whose_directory_was_taken_over_ends_at_most_one_update_after_it_is_detected(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    ((error, updates),) = run_distributed(run_that_is_taken_over, 1, tmp_path / "run", prepared)
    assert "was taken over by" in error and updates in (2, 3), "the numbers of an update may be on their way already"
