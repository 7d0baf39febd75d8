"""Measurements of one node, on this machine."""

import os
import platform
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.cpp_extension import get_default_build_root

from recipes.cluster.checkout import checkout_digest
from recipes.cluster.preflight import measure
from recipes.cluster.preflight.node_report import MEMORY, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device
from tests.clock import Clock
from tests.distributed import run_distributed
from tests.launching import contents


def test_versions_are_the_installed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure.versions()
    assert found == {
        **{name: metadata.version(name) for name in ("torch", "deepspeed", "megatron-core", "numpy")},
        **{"python": platform.python_version(), "checkout": checkout_digest()},
    }
    monkeypatch.setattr(measure, "PACKAGES", ("no-such-package",))
    assert measure.versions()["no-such-package"] == "absent"


def test_without_a_cuda_device_the_cores_are_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # otherwise a driver without devices would be an error
    assert measure.own_devices(0, 1) == [] and measure.idle_devices([]) == [Device("cpu", None, None)]


def test_a_process_measures_all_devices_or_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert measure.own_devices(0, 1) == list(range(8)) and measure.own_devices(3, 8) == [3]


def test_a_driver_without_devices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    with pytest.raises(RuntimeError, match="there is an NVIDIA driver, and torch sees no device"):
        measure.own_devices(0, 1)


def cpu_rate() -> tuple[list[float], int]:
    rates = measure.matmul_tflops([], 2)
    return rates, torch.get_num_threads()


def test_a_product_is_timed_with_the_given_number_of_threads() -> None:
    ((rates, num_threads),) = run_distributed(cpu_rate, 1)
    assert len(rates) == 1 and 1e-5 < rates[0] < 100 and num_threads == 2


def test_the_rate_is_that_of_the_best_product(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = Clock(), iter([0.125, 0.0625, 0.25])
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(torch, "mm", lambda *_, out: clock.sleep(next(seconds)))
    assert measure.matmul_tflops([], torch.get_num_threads()) == [2 * 1024**3 / 0.0625 / 1e12]


@pytest.mark.gpu
def test_a_cuda_device_is_timed() -> None:
    (device,) = measure.idle_devices([0])
    (rate,) = measure.matmul_tflops([0], 1)
    assert device.free_fraction and 1 < rate < 10_000


def test_the_nearest_existing_parent_is_used_for_a_run_dir_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert measure.existing_folder(Path("runs/wiki")) == tmp_path
    (tmp_path / "runs").mkdir()
    assert measure.existing_folder(Path("runs/wiki")) == tmp_path / "runs"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file"):
        measure.existing_folder(Path("file/run"))


def test_free_bytes_have_the_places_that_exist(tmp_path: Path) -> None:
    free = measure.free_bytes(tmp_path)
    assert free.keys() >= {RUN_DIR, TEMPORARY} and free.keys() <= {RUN_DIR, TEMPORARY, SHARED_MEMORY, MEMORY}
    assert all(isinstance(number, int) and number >= 0 for number in free.values())
    assert RUN_DIR not in measure.free_bytes(None)


def test_free_bytes_are_the_free_space_of_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {tmp_path: 1, Path(tempfile.gettempdir()): 2, Path("/dev/shm"): 3}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 90, left[path]))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    4 kB\nBuffers: 2 kB\n")
    assert measure.free_bytes(tmp_path) == {RUN_DIR: 1, TEMPORARY: 2, SHARED_MEMORY: 3, MEMORY: 4096}


class Usage(NamedTuple):
    """The result of shutil.disk_usage."""

    total: int
    used: int
    free: int


def test_the_time_of_a_disk_is_that_of_the_best_save_including_both_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds, synced = Clock(), iter([2.0, 1.0, 0.5, 0.25, 4.0, 4.0]), []

    def sync(path: Path) -> None:
        synced.append((path, {name: len(content) for name, content in contents(tmp_path).items()}))
        clock.sleep(next(seconds))

    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(measure, "sync", sync)
    assert measure.disk_seconds(tmp_path, "name") == 0.75 and contents(tmp_path) == {}
    assert synced == [(tmp_path / "name.tmp", {"name.tmp": 2**20}), (tmp_path, {"name": 2**20})] * 3


def test_a_full_disk_is_an_error_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        measure.disk_seconds(tmp_path, "name")
    assert contents(tmp_path) == {}


def test_the_wait_for_a_file_that_never_appears_is_limited(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    deadline = time.monotonic() + 0.01
    assert measure.has_appeared(tmp_path / "here", deadline) and not measure.has_appeared(tmp_path / "gone", deadline)
    assert measure.has_appeared(tmp_path / "here", deadline), "checked once, even after the deadline"


def test_locks_are_searched_in_torchs_build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    old = make_lock(Path(get_default_build_root(), "py311_cpu", "deepspeed_shm_comm"))
    assert measure.stale_locks(time.time()) == [str(old)]
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "mine"))
    assert measure.stale_locks(time.time()) == []
    assert measure.stale_locks(time.time() + 2 * measure.LOCK_SECONDS) == []
    mine = make_lock(tmp_path / "mine" / "deepspeed_shm_comm")
    assert measure.stale_locks(time.time()) == [str(mine)]


def test_the_lock_of_a_running_build_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    make_lock(tmp_path / "cpu_adam", age=300.0)
    assert measure.stale_locks(time.time()) == [], "DeepSpeed's builds take minutes"
    stale = make_lock(tmp_path / "fused_adam", age=1000.0)
    assert measure.stale_locks(time.time()) == [str(stale)]


def make_lock(folder: Path, age: float = measure.LOCK_SECONDS + 60) -> Path:
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    return lock
