"""Runs on this machine, where the command of a run is a small script instead of a training: how many at a time, retries, adoption, stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError, Stopped
from recipes.study import local
from recipes.study.attempts import Attempts
from recipes.study.command import open_study
from recipes.study.local import LocalRuns, log_of, only_driver
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from recipes.system.json_lines import read_rows
from tests.made_up_study import made_up_study

BEGIN = "import json, os, sys, time; from pathlib import Path; run = Path(sys.argv[1]); run.mkdir(parents=True, exist_ok=True)\n"
EVENT = (
    "def event(**keys):\n    with (run / 'events.jsonl').open('a') as file: file.write(json.dumps({'time': time.time(), **keys}) + '\\n')\n"
)
DONE = BEGIN + EVENT + "event(event='start'); event(event='stop', reason='done')\n"
FAILS = "import sys; print('error: no disk'); sys.exit(2)"
WAITS = BEGIN + EVENT + "event(event='start')\nfor _ in range(2000): time.sleep(0.01)\n"
Script = Callable[[Run], str]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Study, list[Run]]:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(local, "STOP_SECONDS", 3.0)
    study, _, runs = open_study(made_up_study(tmp_path))
    return study, runs


@pytest.fixture
def trained(opened: tuple[Study, list[Run]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[LocalRuns, list[str]]]]:
    """Returns a function that returns the driver whose runs are `script`, and the list of its lines."""
    study, runs = opened
    attempts: list[LocalRuns] = []

    def driver(script: Script, at_once: int = 2, retries: int = 1) -> tuple[LocalRuns, list[str]]:
        monkeypatch.setattr(local, "local_command", lambda study, run, data: [sys.executable, "-c", script(run), str(run.path)])
        said: list[str] = []
        data = {run.key: study.out / "data" for run in runs}
        attempts.append(LocalRuns(study, data, at_once=at_once, retries=retries, say=said.append))
        return attempts[-1], said

    yield driver
    for run in runs:
        for one in attempts:
            if pid := one.attempts.process_of(run):
                os.kill(pid, signal.SIGKILL)


def starts(study: Study, run: Run) -> int:
    rows, _ = read_rows(study.out / "attempts.jsonl")
    return sum(row["event"] == "begin" and row["run"] == run.key for row in rows)


def wait_for(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop_when(happened: Callable[[], Any]) -> threading.Thread:
    """Return a started thread that sends SIGTERM to this process when `happened()`, or after 20 seconds."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_so_many_run_at_a_time_as_allowed(opened: tuple[Study, list[Run]], trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study, runs = opened
    count, most = [0], list[int]()
    begin, end = Attempts.begin, Attempts.end
    monkeypatch.setattr(
        Attempts, "begin", lambda self, run, *more: (begin(self, run, *more), count.__setitem__(0, count[0] + 1), most.append(count[0]))
    )
    monkeypatch.setattr(Attempts, "end", lambda self, *args, **keys: (end(self, *args, **keys), count.__setitem__(0, count[0] - 1)))
    driver, said = trained(lambda run: DONE, at_once=3)
    assert driver.train(runs) == []
    assert max(most) == 3 and count == [0] and [starts(study, run) for run in runs] == [1] * 8
    assert sum(": done in " in line for line in said) == 8
    again, said = trained(lambda run: FAILS)
    assert again.train(runs) == [] and said == [], "what is done is not started again"


def test_a_failing_run_is_tried_again_and_given_up_and_others_go_on(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    driver, said = trained(lambda run: FAILS if run is runs[0] else DONE, retries=2)
    assert driver.train(runs[:3]) == [runs[0]]
    assert [starts(study, run) for run in runs[:3]] == [3, 1, 1]
    lines = [line for line in said if "failed" in line]
    assert [line.partition("; ")[2] for line in lines] == ["try 1 of 3", "try 2 of 3", "given up after 3 tries"]
    assert lines[0].startswith(f"{runs[0].name}: failed (no disk)") and log_of(study, runs[0]).read_text() == "error: no disk\n" * 3
    assert driver.attempts.state_of(runs[0]).reason == "no disk"
    again, _ = trained(lambda run: DONE, retries=2)
    assert again.train(runs[:1]) == [runs[0]] and starts(study, runs[0]) == 3
    more, _ = trained(lambda run: DONE, retries=3)
    assert more.train(runs[:1]) == [] and starts(study, runs[0]) == 4


def test_a_run_that_fails_once_is_done_by_its_second_try(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    driver, _ = trained(lambda run: DONE if starts(study, run) else "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert driver.train(runs[:1]) == [] and starts(study, runs[0]) == 2
    rows, _ = read_rows(study.out / "attempts.jsonl")
    assert [(row["code"], row["reason"]) for row in rows if row["event"] == "end"] == [(-9, "killed by signal 9"), (0, "")]


def test_a_run_that_ends_without_an_error_and_is_not_done_is_not_started_for_ever(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    driver, _ = trained(lambda run: DONE if starts(study, run) >= 6 else "", retries=1)
    driver.train(runs[:1])
    assert starts(study, runs[0]) <= 2


def test_a_process_of_an_earlier_driver_is_waited_for_and_not_started_again(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    script = BEGIN + EVENT + "time.sleep(0.3); event(event='start'); event(event='stop', reason='done')\n"
    process = subprocess.Popen([sys.executable, "-c", script, str(runs[0].path)])
    Attempts(study.out).begin(runs[0], process.pid)
    threading.Thread(target=process.wait).start()
    driver, said = trained(lambda run: DONE)
    assert driver.train(runs[:2]) == [] and [starts(study, run) for run in runs[:2]] == [1, 1]
    assert said[0] == f"{runs[0].name}: is going on already" and sum(": done in" in line for line in said) == 2


def test_an_earlier_process_counts_for_the_runs_at_a_time(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    Attempts(study.out).begin(runs[0], process.pid)
    threading.Thread(target=process.wait).start()
    driver, said = trained(lambda run: DONE, at_once=1)
    assert driver.train(runs[:2]) == [] and starts(study, runs[0]) == 2, "it failed, and was tried again"
    assert said.index(next(line for line in said if ": failed (" in line)) < said.index(next(line for line in said if ": started" in line))


def test_a_request_to_stop_ends_the_runs_and_is_no_failure(opened: tuple[Study, list[Run]], trained: Any) -> None:
    study, runs = opened
    driver, said = trained(lambda run: WAITS)
    before = signal.getsignal(signal.SIGTERM)
    thread = stop_when(lambda: all((run.path / "events.jsonl").exists() for run in runs[:2]))
    with pytest.raises(Stopped, match="the same command continues"):
        driver.train(runs)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before and "stopping: 2 runs save and end" in said
    assert [driver.attempts.process_of(run) for run in runs] == [None] * 8 and [starts(study, run) for run in runs] == [1, 1] + [0] * 6
    assert [driver.attempts.num_failures(run) for run in runs[:2]] == [0, 0], "three requests to stop would give the runs up"


def test_a_request_to_stop_ends_a_process_of_an_earlier_driver_too(
    opened: tuple[Study, list[Run]], trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not locked its folder yet, so that the file stop would be lost."""
    monkeypatch.setattr(local, "STOP_SECONDS", 1.0)
    study, runs = opened
    words = [sys.executable, "-c", WAITS, str(runs[0].path)]
    with subprocess.Popen(words, start_new_session=True) as process:
        Attempts(study.out).begin(runs[0], process.pid)
        reaper = threading.Thread(target=process.wait)
        reaper.start()
        driver, _ = trained(lambda run: WAITS)
        thread = stop_when((runs[0].path / "events.jsonl").exists)
        with pytest.raises(Stopped):
            driver.train(runs[:1])
        thread.join()
        is_alive = driver.attempts.process_of(runs[0]) is not None
        process.kill()
        reaper.join(10)
    assert not is_alive


def test_a_run_that_owns_its_folder_gets_the_file_stop_and_saves(opened: tuple[Study, list[Run]], trained: Any) -> None:
    """A run dir that this process locks stands for a training that has begun."""
    _, runs = opened
    lock = "from dataclasses import asdict; from recipes.run_dir.lock import Owner\n"
    lock += "(run / '.lock').write_text(json.dumps(asdict(Owner.this_process())))\n"
    saves = "event(event='start')\nwhile not (run / 'stop').exists(): time.sleep(0.01)\n"
    saves += "event(event='stop', reason='file'); sys.exit(75)\n"
    driver, said = trained(lambda run: BEGIN + EVENT + lock + saves)
    thread = stop_when(lambda: (runs[0].path / "events.jsonl").exists())
    with pytest.raises(Stopped):
        driver.train(runs[:1])
    thread.join()
    assert f"{runs[0].name}: stopped before its first checkpoint" in said and driver.attempts.num_failures(runs[0]) == 0
    assert driver.attempts.state_of(runs[0]).state == "stopped"


def test_a_run_gets_its_part_of_the_cores_and_its_group(
    opened: tuple[Study, list[Run]], trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, runs = opened
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    show = "print(*(os.environ[name] for name in ('OMP_NUM_THREADS', 'WANDB_RUN_GROUP', 'DS_ACCELERATOR')), os.getcwd())\n"
    driver, _ = trained(lambda run: DONE + show, at_once=1)
    driver.train(runs[:1])
    cores = len(os.sched_getaffinity(0))
    assert log_of(study, runs[0]).read_text().split() == [str(cores), "made_up", "cpu", str(local.ROOT)]


def test_only_one_process_at_a_time_submits_a_study(opened: tuple[Study, list[Run]]) -> None:
    study, _ = opened
    with only_driver(study), pytest.raises(ConfigError, match="another process submits this study"), only_driver(study):
        pass
    with only_driver(study):
        pass


def test_a_study_under_nohup_goes_on_when_its_terminal_closes(opened: tuple[Study, list[Run]], trained: Any) -> None:
    _, runs = opened
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        driver, _ = trained(lambda run: (os.kill(os.getpid(), signal.SIGHUP), DONE)[1])
        assert driver.train(runs[:2]) == []
    finally:
        signal.signal(signal.SIGHUP, before)
