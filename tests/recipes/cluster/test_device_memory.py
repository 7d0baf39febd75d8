"""The memory of a rank: its GPU's, its part of the host's, or an assumed one in a dry run of imagined ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.cluster import device_memory
from recipes.cluster.device_memory import ASSUMED_GPU_BYTES, gpu_name, host_memory, rank_memory, smallest_gpu
from recipes.plan.fit import DeviceMemory

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of 64 GiB without GPUs, limits or a launcher. Returns the folder of its files."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "RANK", "SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {64 * 2**20} kB\nMemFree: 1 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(device_memory, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(device_memory, "LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    monkeypatch.setattr(device_memory, "may_see_devices", lambda: False)
    return tmp_path


def test_the_host_s_memory_is_the_smallest_of_machine_group_and_job(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    assert host_memory() == 64 * GIB
    (machine / "memory.max").write_text(f"{32 * GIB}\n")
    assert host_memory() == 32 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8192")
    assert host_memory() == 8 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # Slurm's word for the whole node
    assert host_memory() == 32 * GIB


def test_a_system_that_says_nothing_gives_none(machine: Path) -> None:
    (machine / "meminfo").write_text("Nothing: 1 kB\n")
    assert host_memory() is None and rank_memory("zero3_cpu.json") is None


def test_the_ranks_of_a_node_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_memory("zero3_cpu.json") == DeviceMemory(64 * GIB, on_gpu=False)
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert rank_memory("zero3_cpu.json") == DeviceMemory(16 * GIB, on_gpu=False)


def test_imagined_ranks_have_a_gpu_unless_the_ds_config_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rank_memory("a/zero3_bf16.json") == DeviceMemory(ASSUMED_GPU_BYTES, on_gpu=True, is_assumed=True)
    assert rank_memory("a/zero3_cpu_bf16.json") == DeviceMemory(16 * GIB, on_gpu=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert rank_memory("a/zero3_bf16.json") == DeviceMemory(16 * GIB, on_gpu=False)


def test_a_gpu_s_memory_is_that_of_the_smallest_and_unknown_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "may_see_devices", lambda: True)
    for size, found in ((40 * GIB, DeviceMemory(40 * GIB, on_gpu=True)), (None, None)):
        monkeypatch.setattr(device_memory, "smallest_gpu", lambda size=size: size)
        assert rank_memory("zero3_bf16.json") == found


def driver(*sizes: int) -> SimpleNamespace:
    """Return a libcuda with devices of these sizes; without any, its initialisation fails with CUDA_ERROR_NO_DEVICE."""

    def write(pointer: Any, value: int) -> int:
        pointer._obj.value = value
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: 0 if sizes else 100,
        cuDeviceGetCount=lambda count: write(count, len(sizes)),
        cuDeviceGet=lambda device, number: write(device, number),
        cuDeviceTotalMem_v2=lambda size, device: write(size, sizes[device.value]),
    )


def test_the_driver_is_asked_for_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for sizes, found in (((80 * GIB, 24 * GIB), 24 * GIB), ((), None)):
        monkeypatch.setattr(device_memory.ctypes, "CDLL", lambda name, sizes=sizes: driver(*sizes))
        assert smallest_gpu() == found

    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(device_memory.ctypes, "CDLL", absent)
    assert smallest_gpu() is None and gpu_name() is None


def test_the_driver_names_its_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(buffer: Any, size: int, device: Any) -> int:
        buffer.value = b"NVIDIA H100 80GB HBM3"
        return 0

    found = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGet=lambda device, number: 0, cuDeviceGetName=name)
    monkeypatch.setattr(device_memory.ctypes, "CDLL", lambda library: found)
    assert gpu_name() == "NVIDIA H100 80GB HBM3"
    found.cuDeviceGet = lambda device, number: 101
    assert gpu_name() is None


@pytest.mark.gpu
def test_the_driver_says_what_torch_says() -> None:
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    assert smallest_gpu() == pytest.approx(min(sizes), rel=0.02)
