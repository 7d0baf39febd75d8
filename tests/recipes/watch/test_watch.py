"""A rank's side of the watch: what signs of life cost and say, and last words. The watcher itself: test_watcher.py."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from recipes.errors import ConfigError, Stopped, TrainingBroken
from recipes.watch.heartbeat import read_beat
from recipes.watch.last_words import read_endings
from recipes.watch.watch import LONGEST_MESSAGE, Watch


def record_of(folder: Path) -> dict:
    return json.loads((folder / "rank_00000.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As rank 0 makes it when a run begins."""
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder


@pytest.fixture
def watch(folder: Path) -> Watch:
    watch = Watch(folder, 0, ["here"], 60.0)
    watch.start()
    return watch


def test_before_its_start_everything_is_allowed_and_nothing_happens(folder: Path) -> None:
    watch = Watch(folder, 0, ["here"], 60.0)
    watch.beat(1, "data")
    watch.alive()
    with watch.paused("save"):
        pass
    assert watch.end(75) == 75
    watch.close()
    assert not list(folder.iterdir())


def test_signs_of_life_say_where_the_rank_is_and_count_up(folder: Path) -> None:
    watch = Watch(folder, 0, ["here"], 60.0)
    watch.beat(7, "forward", 3)
    first = read_beat(watch._memory)
    assert (first.number, first.step, first.micro_batch, first.phase, first.is_paused) == (1, 7, 3, "forward", False)
    assert abs(first.seconds - time.monotonic()) < 5
    watch.alive()
    again = read_beat(watch._memory)
    assert again.seconds > first.seconds and again[1:] == first[1:]
    with watch.paused("save"):
        inside = read_beat(watch._memory)
        assert (inside.number, inside.step, inside.phase, inside.is_paused) == (2, 7, "save", True)
    assert read_beat(watch._memory)[1:] == (3, 7, 0, "save", False)


def test_a_sign_of_life_costs_microseconds(watch: Watch) -> None:
    start = time.perf_counter()
    for step in range(10_000):
        watch.beat(step, "forward", 1)
    assert time.perf_counter() - start < 1, "100 us each, on a crowded machine; one is what a free one needs"
    watch.close()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("mend it"), 2, "mend it"),
        (TrainingBroken("diverged"), 3, "diverged"),
        (Stopped("stopped by SIGTERM"), 75, "stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt: "),
        (ValueError("a defect"), 1, "ValueError: a defect"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_words_count_and_close_waits_until_they_are_written(
    watch: Watch, folder: Path, error: BaseException, code: int, message: str
) -> None:
    watch.beat(9, "judge")
    begin = time.time()
    watch.end_with(error)
    assert watch.end(0) == 0
    watch.close()
    record = record_of(folder)
    assert record["ended"] == {"code": code, "message": message} and begin <= record["time"] <= time.time()
    assert (record["rank"], record["host"], record["pid"]) == (0, "here", os.getpid())
    assert (record["step"], record["phase"]) == (9, "judge")


def test_a_message_longer_than_a_pipe_takes_at_once_is_cut(watch: Watch, folder: Path) -> None:
    watch.end(1, "\u2028" * 10_000)
    watch.close()
    assert record_of(folder)["ended"]["message"] == "\u2028" * LONGEST_MESSAGE


@pytest.mark.parametrize(("code", "remains"), [(0, False), (2, False), (75, False), (130, False), (1, True), (3, True)])
def test_who_ends_in_order_before_a_run_began_leaves_no_folder(tmp_path: Path, code: int, remains: bool) -> None:
    watch = Watch(tmp_path / "run" / "watch", 0, ["here"], 60.0)
    watch.start()
    watch.end(code)
    watch.close()
    assert (tmp_path / "run").exists() == remains


def test_a_rank_without_last_words_has_ended_without_a_word(watch: Watch, folder: Path) -> None:
    watch.close()
    assert "rank 0 on here ended without a word (killed, or crashed in native code) at step 0, start" in map(str, read_endings(folder))


def test_the_watcher_hears_no_stop_request_and_ends_with_its_rank(watch: Watch) -> None:
    watcher = watch._watcher
    assert watcher is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        os.kill(watcher.pid, number)
    with pytest.raises(subprocess.TimeoutExpired):
        watcher.wait(0.5)
    watch.close()
    assert watcher.returncode == 0


def test_a_rank_whose_watcher_was_killed_ends_as_ever(watch: Watch) -> None:
    assert watch._watcher is not None
    watch._watcher.kill()
    watch._watcher.wait(5)
    assert watch.end(0) == 0
    watch.close()
