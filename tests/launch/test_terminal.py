"""Runs that lose their terminal or their run dir: they train on and save, or end with one line and without partial files."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.launching import PRETRAIN_TEXT, launch, overrides, read_jsonl, refused, start, start_ranks

FOREVER = 100_000


@pytest.fixture
def args(tiny_prepared: Path, tmp_path: Path) -> list[object]:
    return ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides(run__max_steps=FOREVER, optim__schedule_steps=FOREVER)]


def num_rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def without_reader() -> None:
    """As after Ctrl-C with `| tee log`: tee ends first."""
    reading, writing = os.pipe()
    for number in (1, 2):
        os.dup2(writing, number)
    os.close(reading)
    os.close(writing)


def to_a_full_disk(*numbers: int) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    for number in numbers:
        os.dup2(full, number)


def closed(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def test_a_run_whose_stdout_is_closed_saves_on_a_stop_request(args: list[object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = start_ranks(PRETRAIN_TEXT, args, tmp_path, 2, before=dict.fromkeys((0, 1), without_reader))
    ranks.running[0].wait_until(lambda: num_rows(run) >= 3)
    for one in ranks.running:
        os.killpg(one.process.pid or 0, signal.SIGINT)
    assert [done.returncode for done in ranks.wait()] == [75, 75]
    events = read_jsonl(run / "events.jsonl")
    assert [event["event"] for event in events] == ["start", "terminal_lost", "save", "stop"]
    assert (events[1]["stream"], events[1]["reason"]) == ("stdout", "Broken pipe")
    assert (run / "checkpoints" / "latest").exists() and events[-1]["step"] == num_rows(run)


@pytest.mark.parametrize("before", [partial(to_a_full_disk, 1), partial(closed, 1), partial(closed, 0, 1)], ids=["full", "closed", "both"])
def test_a_log_that_cannot_be_written_is_one_line_on_stderr_and_an_event(
    args: list[object], tmp_path: Path, before: Callable[[], None]
) -> None:
    running = start(PRETRAIN_TEXT, [*args, "--set", "run.max_steps=3"], tmp_path, before=before)
    done = running.wait()
    assert done.returncode == 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: stdout is lost (")
    assert [event["event"] for event in read_jsonl(tmp_path / "run" / "events.jsonl")] == ["start", "terminal_lost", "save", "stop"]


def test_an_error_gives_its_exit_code_even_if_nothing_can_be_printed(args: list[object], tmp_path: Path) -> None:
    done = start(PRETRAIN_TEXT, [*args, "--set", "optim.lr=high"], tmp_path, before=partial(closed, 0, 1, 2)).wait()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_run_dir_that_is_moved_ends_the_run_with_one_line_and_can_be_resumed_there(args: list[object], tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    ranks = start_ranks(PRETRAIN_TEXT, [*args, "--set", "run.save_steps=2"], tmp_path, 2)
    ranks.running[0].wait_until(lambda: (run / "checkpoints" / "latest").exists())
    run.rename(moved)
    first, second = ranks.wait()
    refused(first, r"run was moved or removed .*; it ends without writing more\. If it was moved, the same command .*new --run-dir")
    assert second.returncode == 2 and not run.exists()
    again = [moved if word == run else word for word in args]
    done = launch(PRETRAIN_TEXT, [*again, "--set", "run.max_steps=1000", "--set", "run.max_minutes=1e-4"], tmp_path)
    assert (done.returncode, done.stderr) == (75, "") and "resumed at step" in done.stdout


def test_a_name_that_is_too_long_is_one_line(args: list[object], tmp_path: Path) -> None:
    for flags in (["--run-dir", "x" * 300], ["--data", "x" * 300], ["--deepspeed_config", "x" * 300], ["--recipe", f"{'x' * 300}.py:f"]):
        refused(launch(PRETRAIN_TEXT, [*args, *flags, "--dry-run"], tmp_path), "ile name too long")
    refused(launch(PRETRAIN_TEXT, [*args, "--run-dir", "x" * 300], tmp_path), "ile name too long")
