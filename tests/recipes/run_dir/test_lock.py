"""One owner at a time: real processes that are killed, stopped, lose the lock, or race each other."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.run_dir.lock import Owner, RunLock
from tests.distributed import run_command
from tests.launching import ROOT

QUICK = {"heartbeat_seconds": 0.1, "stale_seconds": 0.6}
PROGRAM = """
import sys
from pathlib import Path
from recipes.errors import ConfigError
from recipes.run_dir.lock import RunLock

print("ready", flush=True)
sys.stdin.readline()
lock = RunLock(Path(sys.argv[1]), heartbeat_seconds=0.1, stale_seconds=float(sys.argv[2]), say=lambda line: None)
try:
    previous = lock.acquire()
    print(f"owns it after {previous}", flush=True)
    for command in sys.stdin:
        getattr(lock, command.strip())()
        print(f"{command.strip()} done", flush=True)
except ConfigError as error:
    print(f"refused: {error}", flush=True)
"""


class Launch:
    """A process that tries to acquire the lock on command."""

    def __init__(self, path: Path, stale_seconds: float) -> None:
        command = [sys.executable, "-c", PROGRAM, str(path), str(stale_seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.read() == "ready"

    def send(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """Send a command and return the answer. `go` acquires the lock."""
        self.send(line)
        return self.read()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def one(stale_seconds: float = 0.6) -> Launch:
        started.append(Launch(tmp_path / ".lock", stale_seconds))
        return started[-1]

    yield one
    for launch in started:
        launch.process.kill()
        launch.process.communicate()


def rewrite(path: Path, **facts: object) -> None:
    """Change fields of the lock file, as if another machine had written it."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | facts))


class Elsewhere:
    """An owner on another machine. If `beats`, its file is touched every 0.1 s."""

    def __init__(self, path: Path, *, beats: bool) -> None:
        self._over = threading.Event()
        owner = RunLock(path)
        owner.acquire()
        owner._released.set()  # end its own heartbeat; _beat of this class replaces it
        rewrite(path, host="elsewhere", boot="another")
        os.utime(path, (1_000_000_000, 1_000_000_000))  # decades behind our clock, which must have no effect
        self._thread = threading.Thread(target=self._beat, args=(path,), daemon=True)
        if beats:
            self._thread.start()

    def _beat(self, path: Path) -> None:
        seconds = 1_000_000_000
        while not self._over.wait(0.1):
            seconds += 5
            os.utime(path, (seconds, seconds))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def test_a_second_launch_is_refused_at_once_and_the_error_names_the_owner(begin: Callable[..., Launch], tmp_path: Path) -> None:
    owner, second = begin(), begin(20)
    assert owner.ask("go") == "owns it after None"
    start = time.monotonic()
    pattern = rf"refused: --run-dir {tmp_path} is in use by pid {owner.process.pid} on \S+ since [-\d]+ [:\d]+; wait for it, stop it, or"
    assert re.match(pattern, second.ask("go"))
    assert time.monotonic() - start < 10, "faster than by the heartbeat"


def test_a_killed_owner_is_replaced_at_once(begin: Callable[..., Launch], tmp_path: Path) -> None:
    owner, second = begin(), begin(20)
    owner.ask("go")
    owner.process.send_signal(signal.SIGKILL)  # without wait(): a zombie still has its pid
    deadline = time.monotonic() + 5
    while Path(f"/proc/{owner.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
    start = time.monotonic()
    assert second.ask("go").startswith(f"owns it after pid {owner.process.pid} on ")
    assert time.monotonic() - start < 10, "faster than by the heartbeat"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "no leftovers"
    assert second.ask("check") == "check done"


def test_a_stopped_owner_on_the_same_machine_is_alive(begin: Callable[..., Launch]) -> None:
    owner, second = begin(), begin()
    owner.ask("go")
    owner.process.send_signal(signal.SIGSTOP)
    time.sleep(1)  # more than stale_seconds
    assert "is in use by pid" in second.ask("go")


def test_a_released_lock_is_free_and_release_leaves_the_lock_of_another_owner(begin: Callable[..., Launch], tmp_path: Path) -> None:
    owner, second = begin(), begin()
    owner.ask("go")
    assert owner.ask("release") == "release done" and list(tmp_path.iterdir()) == []
    assert second.ask("go") == "owns it after None"
    assert owner.ask("release") == "release done" and (tmp_path / ".lock").exists()


def test_a_reused_pid_is_not_the_owner(begin: Callable[..., Launch], tmp_path: Path) -> None:
    owner, second = begin(), begin()
    owner.ask("go")
    owner.process.kill()
    rewrite(tmp_path / ".lock", pid=os.getpid())
    assert second.ask("go").startswith(f"owns it after pid {os.getpid()} on ")


def test_the_owner_is_described_and_read_back() -> None:
    owner = Owner.this_process()
    assert owner.is_here() and owner.is_running() and owner.start.isdigit()
    assert Owner.of(json.dumps(owner.__dict__)) == owner
    for text in ("", "pid 7 on x", "[]", "{}", '{"host": "x"}', json.dumps(owner.__dict__ | {"pid": "7"})):
        assert Owner.of(text) is None


def test_an_owner_elsewhere_with_a_heartbeat_is_alive_whatever_its_clock(tmp_path: Path) -> None:
    elsewhere = Elsewhere(tmp_path / ".lock", beats=True)
    with pytest.raises(ConfigError, match=r"is in use by pid \d+ on elsewhere since "):
        RunLock(tmp_path / ".lock", **QUICK).acquire()
    elsewhere.stop()


def test_an_owner_elsewhere_without_a_heartbeat_is_replaced_after_a_wait(tmp_path: Path) -> None:
    Elsewhere(tmp_path / ".lock", beats=False)
    lines: list[str] = []
    start = time.monotonic()
    lock = RunLock(tmp_path / ".lock", say=lines.append, **QUICK)
    previous = lock.acquire()
    assert previous and " on elsewhere since " in previous
    assert 0.6 <= time.monotonic() - start < 10
    (line,) = lines
    assert line.startswith(f"--run-dir {tmp_path} belongs to pid") and line.endswith("watching up to 0.6 s whether that is alive")
    lock.release()


@pytest.mark.parametrize("content", ["", "pid 12 on old since then", "\xff\xfe"])
def test_for_a_lock_file_that_cannot_be_parsed_only_the_heartbeat_counts(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content, encoding="latin-1")
    lock = RunLock(tmp_path / ".lock", say=lambda line: None, **QUICK)
    assert lock.acquire() == "another process"
    lock.release()


def test_an_owner_that_releases_while_it_is_watched_is_replaced_without_waiting(tmp_path: Path) -> None:
    Elsewhere(tmp_path / ".lock", beats=False)
    threading.Timer(0.3, (tmp_path / ".lock").unlink).start()
    start = time.monotonic()
    lock = RunLock(tmp_path / ".lock", say=lambda line: None, heartbeat_seconds=0.1, stale_seconds=30)
    assert lock.acquire() is None and time.monotonic() - start < 15
    lock.release()


def test_the_heartbeat_touches_the_file(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / ".lock", **QUICK)
    lock.acquire()
    seen = {((tmp_path / ".lock").stat().st_mtime_ns, time.sleep(0.05)) for _ in range(20)}
    assert len(seen) >= 4
    lock.release()


def test_an_owner_that_lost_the_lock_stops_at_its_check_and_names_the_new_owner(begin: Callable[..., Launch], tmp_path: Path) -> None:
    owner, new_owner = begin(), begin()
    owner.ask("go")
    owner.process.send_signal(signal.SIGSTOP)
    rewrite(tmp_path / ".lock", host="elsewhere", boot="another")  # the new owner cannot ask the kernel of that machine
    assert new_owner.ask("go").startswith(f"owns it after pid {owner.process.pid} on elsewhere")
    owner.process.send_signal(signal.SIGCONT)
    answer = owner.ask("check")
    assert answer.startswith(f"refused: --run-dir {tmp_path} was taken over by pid {new_owner.process.pid} on "), answer
    assert new_owner.ask("check") == "check done"


def test_a_heartbeat_detects_the_loss_and_does_not_touch_the_new_owners_file(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / ".lock", **QUICK)
    lock.acquire()
    assert not lock.is_lost
    rewrite(tmp_path / ".lock", pid=7)
    time.sleep(1)
    before = (tmp_path / ".lock").stat().st_mtime_ns
    time.sleep(0.3)
    assert lock.is_lost and (tmp_path / ".lock").stat().st_mtime_ns == before
    lock.release()
    assert (tmp_path / ".lock").exists()


def test_a_lock_file_that_was_removed_by_hand_is_created_again(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / ".lock")
    lock.acquire()
    (tmp_path / ".lock").unlink()
    lock.check()
    assert Owner.of((tmp_path / ".lock").read_text()) is not None
    lock.release()


RACE = """
import json, os, sys, tempfile, time
from pathlib import Path
from recipes.errors import ConfigError
from recipes.run_dir.lock import Owner, RunLock

def race(path, start):
    while time.time() < start:
        pass
    lock = RunLock(path, heartbeat_seconds=0.05, stale_seconds=0.3, say=lambda line: None)
    try:
        lock.acquire()
        return b"o"
    except ConfigError as error:
        return b"r" if "is in use by" in str(error) else b"?"

for number in range(int(sys.argv[2])):
    path = Path(sys.argv[3], f"{number}", ".lock")
    path.parent.mkdir()
    path.write_text(json.dumps({**Owner.this_process().__dict__, **json.loads(sys.argv[1])}))
    (answer, result), (over, end), start = os.pipe(), os.pipe(), time.time() + 0.02
    for _ in range(10):
        if os.fork() == 0:
            os.close(end)
            os.write(result, race(path, start))
            os.read(over, 1)  # the owner stays alive until all have answered
            os._exit(0)
    answers = b"".join(os.read(answer, 1) for _ in range(10))
    left = sorted(os.listdir(path.parent))
    os.close(end)
    for _ in range(10):
        os.wait()
    print(bytes(sorted(answers)).decode(), left)
"""


@pytest.mark.parametrize(("stale", "rounds"), [({"pid": 2**22 + 1}, 40), ({"boot": "another"}, 5)], ids=["dead", "silent elsewhere"])
def test_of_ten_launches_that_race_for_a_stale_lock_exactly_one_wins(tmp_path: Path, stale: dict, rounds: int) -> None:
    """If a launch only read the file before removing it, this test would fail in about one round of six."""
    done = run_command([sys.executable, "-c", RACE, json.dumps(stale), str(rounds), str(tmp_path)], ROOT, 60)
    assert done.stdout.splitlines() == ["orrrrrrrrr ['.lock']"] * rounds, done.stdout + done.stderr


def test_without_flock_a_lock_that_got_a_new_owner_meanwhile_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check: between the last read and the rename, another owner has written the file."""
    path = tmp_path / ".lock"
    Elsewhere(path, beats=False)
    lock = RunLock(path, say=lambda line: None, **QUICK)
    stale = lock._read_file()
    assert stale is not None
    new = RunLock(path, **QUICK)
    new._prepare()
    path.write_text(new.text)
    monkeypatch.setattr(lock, "_read_file", lambda: stale)
    assert not lock._remove_stale(stale)
    assert path.read_text() == new.text
    new.check()
