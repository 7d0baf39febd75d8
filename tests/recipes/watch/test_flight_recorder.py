"""The request for the dump of NCCL's flight recorder, with this process in place of torch. With a GPU: not yet run."""

import os
import pickle
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from recipes.cluster import world
from recipes.watch import watcher
from recipes.watch.flight_recorder import enable_flight_recorder, is_dumped, remove_pipe, request_dump
from recipes.watch.heartbeat import SIZE
from recipes.watch.watcher import Watcher, WatchTarget
from tests.clock import Clock


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The variables of a rank whose user has chosen where pipe and dump are."""
    environ = {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": f"{tmp_path}/pipe_", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": f"{tmp_path}/trace_"}
    enable_flight_recorder(environ)
    return environ


@pytest.fixture
def torch_pipe(environ: dict[str, str], tmp_path: Path) -> int:
    """The pipe of rank 3, open for reading as torch holds it."""
    os.mkfifo(tmp_path / "pipe_3.pipe")
    return os.open(tmp_path / "pipe_3.pipe", os.O_RDONLY | os.O_NONBLOCK)


def test_variables_that_are_set_stay() -> None:
    environ = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "7"}
    enable_flight_recorder(environ)
    assert environ.pop("TORCH_NCCL_TRACE_BUFFER_SIZE") == "7"
    assert sorted(environ) == ["TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"]


@pytest.mark.parametrize("on_cuda", [True, False])
def test_a_run_on_cuda_enables_the_recorder_before_it_joins(on_cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Joined(Exception):
        pass

    def join() -> None:
        raise Joined

    monkeypatch.setattr(world, "_is_on_cuda", lambda: on_cuda)
    monkeypatch.setattr(world, "stray_variables", join)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(world, "enable_flight_recorder", lambda: os.environ.update(enabled="yes"))
    with pytest.raises(Joined):
        world.join_world()
    assert ("enabled" in os.environ) == on_cuda


def test_a_byte_in_the_pipe_requests_a_dump_and_an_older_one_does_not_count(
    environ: dict[str, str], torch_pipe: int, tmp_path: Path
) -> None:
    (tmp_path / "trace_3").write_bytes(pickle.dumps("of the launch before"))
    dump = request_dump(3, environ)
    assert dump == tmp_path / "trace_3" and not dump.exists() and os.read(torch_pipe, 128)
    content = pickle.dumps({"entries": list(range(99))}, protocol=2)
    dump.write_bytes(content[:50])
    assert not is_dumped(dump)
    dump.write_bytes(content)
    assert is_dumped(dump)
    remove_pipe(3, environ)
    assert not (tmp_path / "pipe_3.pipe").exists()


def test_without_a_recorder_nothing_is_requested(environ: dict[str, str], torch_pipe: int, tmp_path: Path) -> None:
    (tmp_path / "trace_3").touch()
    assert request_dump(3, {}) is None and request_dump(4, environ) is None, "on a CPU, and without the pipe"
    os.close(torch_pipe)
    assert request_dump(3, environ) is None and (tmp_path / "trace_3").exists(), "nothing reads the pipe"
    remove_pipe(3, {})
    remove_pipe(4, environ)


@pytest.mark.parametrize(("writes", "seconds"), [(True, 3.0), (False, 5.0)])
def test_the_watcher_waits_for_the_dump_before_it_kills_but_not_long(
    environ: dict[str, str], torch_pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool, seconds: float
) -> None:
    """The 3 s in which the rank dumps its stacks are a part of the 5 s."""
    clock, killed = Clock(), list[tuple[float, bool]]()

    def signal_rank(pid: int, number: int) -> None:
        if writes:
            (tmp_path / "trace_3").write_bytes(pickle.dumps("last collectives"))

    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(watcher, "request_dump", lambda rank: request_dump(rank, environ))
    monkeypatch.setattr(watcher, "time", clock)
    monkeypatch.setattr(watcher, "signal_main_thread", signal_rank)
    monkeypatch.setattr(Watcher, "_gather", lambda self, own: {own["rank"]: own})
    monkeypatch.setattr(Watcher, "_kill", lambda self: killed.append((clock.now - 1000.0, (tmp_path / "trace_3").exists())))
    with TemporaryFile() as stacks:
        Watcher(WatchTarget(str(tmp_path / "watch"), 3, ["a"] * 4, 2**22 + 1, 1, 1.0), mmap(-1, SIZE), -1, stacks.fileno())._end_hang()
    assert os.read(torch_pipe, 128) and killed == [(pytest.approx(seconds, abs=0.5), writes)]
