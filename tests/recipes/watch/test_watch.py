"""The rank's side of the watch: content and cost of heartbeats, and the reported exit code. The watcher itself: test_watcher.py."""

import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes.errors import ConfigError, Stopped, TrainingBroken
from recipes.watch.endings import read_endings
from recipes.watch.heartbeat import read_heartbeat
from recipes.watch.watch import MAX_MESSAGE_CHARACTERS, Watch
from recipes.watch.watcher import DUMP_SIGNAL, MAIN_DUMP_SIGNAL


def record_of(folder: Path) -> dict:
    return json.loads((folder / "rank_00000.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the watch, as rank 0 makes it when a run begins."""
    folder = tmp_path / "watch"
    folder.mkdir()
    return folder


@pytest.fixture
def watch_of(folder: Path) -> Callable[[], Watch]:
    """A function that returns a watch that has started."""

    def start() -> Watch:
        watch = Watch(folder, 0, ["here"], 60.0)
        watch.start()
        return watch

    return start


@pytest.fixture
def watch(watch_of: Callable[[], Watch]) -> Watch:
    """A watch that has started."""
    return watch_of()


def test_before_start_all_methods_may_be_called_and_have_no_effect(folder: Path) -> None:
    watch = Watch(folder, 0, ["here"], 60.0)
    watch.beat(1, "data")
    watch.alive()
    with watch.paused("save"):
        pass
    assert watch.end(75) == 75
    watch.close()
    assert not list(folder.iterdir())


def test_heartbeats_contain_the_place_and_count_up(folder: Path) -> None:
    watch = Watch(folder, 0, ["here"], 60.0)
    watch.beat(7, "forward", 3)
    first = read_heartbeat(watch._memory)
    assert (first.number, first.step, first.micro_batch, first.phase, first.is_paused) == (1, 7, 3, "forward", False)
    assert abs(first.seconds - time.monotonic()) < 5
    watch.alive()
    again = read_heartbeat(watch._memory)
    assert again.seconds > first.seconds and again[1:] == first[1:]
    with watch.paused("save"):
        inside = read_heartbeat(watch._memory)
        assert (inside.number, inside.step, inside.phase, inside.is_paused) == (2, 7, "save", True)
    assert read_heartbeat(watch._memory)[1:] == (3, 7, 0, "save", False)
    with pytest.raises(OSError, match="disk"), watch.paused("last save"):
        raise OSError("disk")
    assert read_heartbeat(watch._memory)[1:] == (5, 7, 0, "last save", False), "a pause ends even if its block raises"


def test_a_closed_watch_leaves_no_open_file_and_no_signal_handler(folder: Path, watch_of: Callable[[], Watch]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    watch = watch_of()
    watch.end(0)
    watch.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    for number in (DUMP_SIGNAL, MAIN_DUMP_SIGNAL):
        assert not faulthandler.unregister(number), "the handler would write into a closed file"


def test_a_heartbeat_costs_microseconds(watch: Watch) -> None:
    start = time.perf_counter()
    for step in range(10_000):
        watch.beat(step, "forward", 1)
    assert time.perf_counter() - start < 1, "100 us each allow for a busy machine; an idle machine needs 1 us"
    watch.close()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("fix it"), 2, "fix it"),
        (TrainingBroken("diverged"), 3, "diverged"),
        (Stopped("stopped by SIGTERM"), 75, "stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt: "),
        (ValueError("a defect"), 1, "ValueError: a defect"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_exit_code_counts_and_close_waits_until_it_is_written(
    watch: Watch, folder: Path, error: BaseException, code: int, message: str
) -> None:
    watch.beat(9, "judge")
    begin = time.time()
    watch.report_error(error)
    assert watch.end(0) == 0
    watch.close()
    record = record_of(folder)
    assert record["ended"] == {"code": code, "message": message} and begin <= record["time"] <= time.time()
    assert (record["rank"], record["host"], record["pid"]) == (0, "here", os.getpid())
    assert (record["step"], record["phase"]) == (9, "judge")


def test_the_watcher_gets_rank_hosts_folder_and_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 2 of thousands, with a relative folder. start() writes a heartbeat with the phase `start`."""
    monkeypatch.chdir(tmp_path)
    hosts = ["a", "b", "c", *(f"node{number}" for number in range(3000))]
    watch = Watch(Path("run/watch"), 2, hosts, 7.5)
    watch.beat(12, "leave")  # between locking the run dir and starting the watcher
    watch.start()
    assert watch._watcher is not None
    assert (
        read_heartbeat(watch._memory)[1:] == (2, 12, 0, "start", False)
        and abs(read_heartbeat(watch._memory).seconds - time.monotonic()) < 60
    )
    assert os.readlink(f"/proc/{watch._watcher.pid}/cwd") == "/", "its current directory could not be unmounted"
    watch.end(1, "a defect")
    watch.close()
    record = json.loads((tmp_path / "run" / "watch" / "rank_00002.json").read_text())
    facts = asdict(watch._target)
    assert facts == {
        **{"folder": str(tmp_path / "run" / "watch"), "rank": 2, "hosts": hosts, "hang_seconds": 7.5},
        **{"pid": os.getpid(), "main_thread": threading.main_thread().ident},
    }
    assert (record["rank"], record["host"], record["pid"], record["main_thread"]) == (2, "c", facts["pid"], facts["main_thread"])


def test_a_module_of_the_user_does_not_replace_one_of_the_standard_library(
    watch_of: Callable[[], Watch], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("select", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the user')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    watch = watch_of()
    watch.end(0)
    watch.close()
    assert record_of(folder)["ended"]["code"] == 0


def test_a_reader_sees_the_old_or_the_new_record_never_half(watch: Watch, folder: Path) -> None:
    path = folder / "rank_00000.json"
    path.write_text("of the launch before")
    with path.open() as before:
        watch.end(0)
        watch.close()
        assert before.read() == "of the launch before"
    assert record_of(folder)["ended"]["code"] == 0


def test_a_message_that_does_not_fit_into_one_write_to_a_pipe_is_cut(watch: Watch, folder: Path) -> None:
    watch.end(1, "\u2028" * 10_000)
    watch.close()
    assert record_of(folder)["ended"]["message"] == "\u2028" * MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize(("code", "remains"), [(0, False), (2, False), (75, False), (130, False), (1, True), (3, True)])
def test_an_end_in_order_before_a_run_began_leaves_no_folder(tmp_path: Path, code: int, remains: bool) -> None:
    watch = Watch(tmp_path / "run" / "watch", 0, ["here"], 60.0)
    watch.start()
    watch.end(code)
    watch.close()
    assert (tmp_path / "run").exists() == remains


def test_a_rank_that_reports_no_exit_code_has_died_without_one(watch: Watch, folder: Path) -> None:
    watch.close()
    assert "rank 0 on here died without an exit code (killed, or crashed in native code) at step 0, start" in map(str, read_endings(folder))


def test_the_watcher_ignores_stop_requests_and_ends_with_its_rank(watch: Watch) -> None:
    watcher = watch._watcher
    assert watcher is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        os.kill(watcher.pid, number)  # even before it has begun
    deadline = time.monotonic() + 30
    while not ignores(watcher.pid, signal.SIGHUP) and watcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watcher.poll() is None and ignores(watcher.pid, signal.SIGHUP), "it also ignores the SIGHUP of a closed terminal"
    os.kill(watcher.pid, signal.SIGHUP)
    watch.close()
    assert watcher.returncode == 0


def ignores(pid: int, number: int) -> bool:
    """True if the process ignores this signal, according to the kernel."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def test_a_rank_whose_watcher_was_killed_ends_normally(watch: Watch) -> None:
    assert watch._watcher is not None
    watch._watcher.kill()
    watch._watcher.wait(5)
    assert watch.end(0) == 0
    watch.close()


def test_the_place_is_that_of_the_last_heartbeat_with_or_without_a_watcher(tmp_path: Path) -> None:
    watch = Watch(tmp_path, 0, ["localhost"], 0)
    watch.beat(7, "backward", 3)
    assert (watch.place.step, watch.place.phase, watch.place.micro_batch) == (7, "backward", 3)
