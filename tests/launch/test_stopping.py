"""Stop requests at every stage of a run, kills, and takeovers by another launch: output, files left, resume. Text, except for worker
processes."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching import PRETRAIN, PRETRAIN_TEXT, Running, launch, overrides, read_jsonl, refused, start, start_ranks
from tests.made_up import write_tones
from tests.processes import gone, processes_of

TIMED = {"step_seconds", "data_wait_seconds", "tokens_per_second", "peak_memory_bytes"}
FOREVER = 100_000
STOPPED = "stopped by {} at step {}, saved; the same command continues"


def kinds(run: Path) -> list[str]:
    return [event["event"] for event in read_jsonl(run / "events.jsonl") if event["event"] != "save"]


def num_rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def curve(run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in read_jsonl(run / "metrics.jsonl")]


@pytest.fixture
def args(tiny_prepared: Path, tmp_path: Path) -> list[object]:
    return ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides(run__max_steps=FOREVER, optim__schedule_steps=FOREVER)]


@pytest.fixture
def training(args: list[object], tmp_path: Path) -> Iterator[Running]:
    """A text run that has logged three steps and would train for hours."""
    running = start(PRETRAIN_TEXT, args, tmp_path)
    running.wait_until(lambda: num_rows(tmp_path / "run") >= 3)
    yield running
    running.stop()


@pytest.mark.parametrize("request_", ["SIGINT", "SIGUSR2", "SIGHUP", "the file stop (removed)"])
def test_every_kind_of_request_ends_after_a_step_saves_and_prints_the_reason(
    training: Running, args: list[object], tmp_path: Path, request_: str
) -> None:
    run = tmp_path / "run"
    if request_.startswith("SIG"):
        os.kill(training.process.pid or 0, signal.Signals[request_])
    else:
        (run / "stop").touch()
    done = training.wait()
    assert (done.returncode, done.stderr) == (75, "")
    last = read_jsonl(run / "events.jsonl")[-1]
    assert (last["event"], last["reason"]) == ("stop", request_)
    assert STOPPED.format(request_, last["step"]) in done.stdout and len(curve(run)) == last["step"]
    assert (run / "checkpoints" / "latest").read_text() == f"step_{last['step']:08d}\n"
    assert not (run / "stop").exists() and not (run / ".lock").exists()
    again = launch(PRETRAIN_TEXT, [*args, "--set", f"run.max_steps={last['step'] + 2}"], tmp_path)
    assert (again.returncode, again.stderr) == (0, "") and kinds(run) == ["start", "stop", "resume", "stop"]


def test_a_time_limit_stops_after_an_update_and_every_launch_makes_one(args: list[object], tmp_path: Path) -> None:
    for number in (1, 2):
        done = launch(PRETRAIN_TEXT, [*args, "--set", "run.max_minutes=1e-4"], tmp_path)
        assert (done.returncode, done.stderr) == (75, "")
        assert STOPPED.format("run.max_minutes=0.0001", number) in done.stdout, "the first boundary is later than the limit"
    assert kinds(tmp_path / "run") == ["start", "stop", "resume", "stop"]


@pytest.mark.slow
def test_a_second_interrupt_is_quick_and_what_was_saved_stays_valid(args: list[object], tmp_path: Path) -> None:
    """The other rank hangs, so the first one waits in a collective. The next launch takes over the leftover lock."""
    run = tmp_path / "run"
    ranks = start_ranks(PRETRAIN_TEXT, [*args, "--set", "run.save_steps=2"], tmp_path, 2)
    first, other = ranks.running
    first.wait_until(lambda: num_rows(run) >= 5)
    os.kill(other.process.pid or 0, signal.SIGSTOP)
    begin = time.monotonic()
    for _ in range(2):
        time.sleep(0.5)
        os.kill(first.process.pid or 0, signal.SIGINT)
    done = first.wait()
    assert time.monotonic() - begin < 8
    assert (done.returncode, done.stderr) == (130, "interrupted; what was saved stays valid and the same command continues\n")
    ranks.stop()
    assert (run / ".lock").exists()
    resumed = launch(PRETRAIN_TEXT, [*args, "--set", f"run.max_steps={num_rows(run) + 2}"], tmp_path)
    assert (resumed.returncode, resumed.stderr) == (0, "") and f"taken over from pid {first.process.pid} on " in resumed.stdout
    (takeover,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "takeover"]
    assert takeover["owner"].startswith(f"pid {first.process.pid} on ")


@pytest.fixture
def with_workers(tmp_path: Path) -> list[object]:
    """Flags of a speech run with one worker process."""
    data = write_tones(tmp_path / "tones")
    return [
        "--data",
        data,
        "--run-dir",
        tmp_path / "run",
        *overrides("speech", data__num_workers=1, run__max_steps=FOREVER, optim__schedule_steps=FOREVER),
    ]


def frozen_after_a_lossy_step(run: Path, process: int) -> bool:
    """Freeze `process`. Let it continue unless a checkpoint is written and the last row is not that of a save, which are 4 steps apart:
    a kill now loses work, and neither a row nor a save can come between this look and the kill."""
    os.kill(process, signal.SIGSTOP)
    if (run / "checkpoints" / "latest").exists() and num_rows(run) % 4:
        return True
    os.kill(process, signal.SIGCONT)
    return False


@pytest.mark.slow
def test_the_worker_of_a_killed_run_ends_too_and_the_next_launch_starts_at_once(with_workers: list[object], tmp_path: Path) -> None:
    run, script = tmp_path / "run", PRETRAIN["speech"]
    args = [*with_workers, "--set", "run.save_steps=4"]
    running = start(script, args, tmp_path)
    group = running.process.pid or 0
    running.wait_until(lambda: frozen_after_a_lossy_step(run, group))
    before = num_rows(run)
    assert len(processes_of(group)) >= 3, "the run, the fork server and the worker"
    running.process.kill()
    running.process.join(10)
    begin = time.time()
    assert gone(group), processes_of(group)
    done = launch(script, [*args, "--set", f"run.max_steps={num_rows(run) + 1}"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    running.stop()
    (resume,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "resume"]
    assert resume["lost_steps"] == before - resume["step"] > 0 and resume["step"] % 4 == 0 and resume["lost_seconds"] > 0
    assert begin - 10 < resume["last_seen"] <= begin, "the ledger needs the time of the end"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_whole_group_leaves_the_data_worker_at_work(with_workers: list[object], tmp_path: Path, number: int) -> None:
    """As Slurm sends it. The signal arrives while the worker is starting, before it could have installed a handler."""
    running = start(PRETRAIN["speech"], with_workers, tmp_path)
    group = running.process.pid or 0
    # The training process, the fork server and a worker. A process that is about to become git or the watcher may also be counted briefly.
    lock = tmp_path / "run" / ".lock"
    running.wait_until(lambda: lock.exists() and sum("forkserver" in command for command in processes_of(group)) >= 3)
    os.killpg(group, number)
    done = running.wait()
    assert (done.returncode, done.stderr) == (75, "")
    assert STOPPED.format(signal.Signals(number).name, 1) in done.stdout and kinds(tmp_path / "run") == ["start", "stop"]


@pytest.mark.parametrize("size", [1, 2])
def test_a_stop_during_preparation_leaves_nothing_behind(tiny_text: Path, tiny_prepared: Path, tmp_path: Path, size: int) -> None:
    book = tmp_path / "book.txt"
    book.write_text(tiny_text.read_text() * 200)  # ten seconds of work for two processes
    run, model = tmp_path / "run", tiny_prepared / "tokenizer.model"  # given, so that no size is known and every core gets a process
    ranks = start_ranks(PRETRAIN_TEXT, ["--data", book, "--run-dir", run, *overrides(data__tokenizer=model)], tmp_path, size)
    first = ranks.running[0]
    first.wait_until(lambda: any(path.stat().st_size for path in run.glob(".prepared.*.tmp/tokens.bin")))
    assert sum("spawn" in command for command in processes_of(first.process.pid or 0)) >= 1, "it has worker processes"
    for one in ranks.running:
        os.killpg(one.process.pid or 0, signal.SIGTERM)
    group, begin = first.process.pid or 0, time.monotonic()
    first.process.join(20)
    assert time.monotonic() - begin < 5 and processes_of(group) == []
    done = ranks.wait()
    line = "stopped by SIGTERM during preparation; the same command continues\n"
    assert [(one.returncode, one.stderr) for one in done] == [(75, "")] * size
    assert done[0].stdout.endswith(line) and not any(one.stdout for one in done[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt"], "neither a run dir nor part of the data"


def stop_while_the_engines_are_built() -> None:
    """For start(before=...): send the signal between preparation and first step."""
    from recipes.train import startup

    build = startup.build_objective

    def signalled(*args: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return build(*args, **options)  # type: ignore[arg-type]

    startup.build_objective = signalled  # type: ignore[assignment]


@pytest.mark.parametrize("asked", [0, 1])
def test_a_stop_of_any_rank_before_the_first_step_ends_all_after_it(args: list[object], tmp_path: Path, asked: int) -> None:
    ranks = start_ranks(PRETRAIN_TEXT, args, tmp_path, 2, before={asked: stop_while_the_engines_are_built})
    done = ranks.wait()
    assert [(one.returncode, one.stderr) for one in done] == [(75, "")] * 2
    reason = "a request on another rank" if asked else "SIGTERM"
    assert STOPPED.format(reason, 1) in done[0].stdout and done[1].stdout == ""
    stop = read_jsonl(tmp_path / "run" / "events.jsonl")[-1]
    assert (stop["event"], stop["reason"], stop["step"]) == ("stop", reason, 1)


@pytest.mark.slow
def test_stops_at_random_moments_of_a_run_that_always_saves_leave_the_same_curve(tiny_prepared: Path, tmp_path: Path) -> None:
    args = ["--data", tiny_prepared, *overrides(run__max_steps=20, run__save_steps=1)]
    run, rng = tmp_path / "run", random.Random(5)
    for _ in range(3):
        before = num_rows(run)
        running = start(PRETRAIN_TEXT, [*args, "--run-dir", run], tmp_path)
        running.wait_until(lambda before=before: num_rows(run) > before + 1)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(running.process.pid or 0, signal.SIGTERM)
        done = running.wait()
        assert (done.returncode, done.stderr) == (75, "")
        step = read_jsonl(run / "events.jsonl")[-1]["step"]
        assert (run / "checkpoints" / "latest").read_text() == f"step_{step:08d}\n"
    for folder in (run, tmp_path / "whole"):
        done = launch(PRETRAIN_TEXT, [*args, "--run-dir", folder], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert curve(run) == curve(tmp_path / "whole") and len(curve(run)) == 20


def test_a_run_with_a_data_worker_that_ends_badly_ends(with_workers: list[object], tmp_path: Path) -> None:
    """At exit Python waits for the processes that it started, and these ignore signals."""
    running = start(PRETRAIN["speech"], [*with_workers, "--set", "guard.min_target_std=9", "--set", "guard.after_steps=3"], tmp_path)
    group = running.process.pid or 0
    done = running.wait()
    assert done.returncode == 3 and done.stderr.startswith("error: ") and gone(group)
    error = read_jsonl(tmp_path / "run" / "events.jsonl")[-1]
    assert error["event"] == "error" and f"error: {error['message']}\n" == done.stderr and error["step"] >= 3


@pytest.mark.slow
def test_a_run_dir_with_a_new_owner_ends_the_run_on_all_ranks_and_nothing_more_is_written(args: list[object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks = start_ranks(PRETRAIN_TEXT, args, tmp_path, 2)
    ranks.running[0].wait_until(lambda: num_rows(run) >= 2)
    lock = run / ".lock"
    new_owner = json.dumps(json.loads(lock.read_text()) | {"host": "elsewhere", "pid": 7}) + "\n"
    lock.write_text(new_owner)
    done = ranks.wait()
    refused(done[0], rf"--run-dir {run} was taken over by pid 7 on elsewhere since .*; it ends without writing more")
    assert (done[1].returncode, done[1].stderr) == (2, "")
    assert lock.read_text() == new_owner and kinds(run) == ["start"]
    assert not list((run / "checkpoints").glob("step_*"))
