"""Measurements of one node: versions, devices, matrix products, memory, disks, locks. A function raises if it cannot measure; the caller
records the reason. Measurements in which several nodes take part are in bandwidth.py."""

import os
import shutil
import sys
import tempfile
import time
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import torch

from recipes.cluster.checkout import checkout_digest
from recipes.cluster.environment import may_see_devices
from recipes.cluster.preflight.node_report import MEMORY, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device
from recipes.system.durable import sync

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy")
CPU_SIZE, CPU_SECONDS = 1024, 0.4
CUDA_SIZE, CUDA_PRODUCTS = 8192, 10
"""Sizes of square matrices, large enough for the peak rate: fp32 on a CPU, bf16 on a CUDA device."""
DISK_BYTES, DISK_ROUNDS = 2**20, 3
LOOK_SECONDS = 0.05
LOCK_SECONDS = 600.0
"""The lock of a running build is younger than this: DeepSpeed's longest build takes a few minutes."""


def versions() -> dict[str, str]:
    """Return name -> version of Python and of the packages that affect a run ("absent" if not installed), and the hash of this
    repository's code as `checkout`. Imports none of the packages."""
    found = {"python": sys.version.split()[0], "checkout": checkout_digest()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def own_devices(local_rank: int, local_size: int) -> list[int]:
    """Return the indices of the CUDA devices that this process measures: all, or its own one if the node has several processes; []
    without any.

    Raises: RuntimeError if there is a driver and torch sees no device. A run on this node would silently use the CPU.
    """
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number and may_see_devices():
        raise RuntimeError("there is an NVIDIA driver, and torch sees no device")
    if local_size > 1 and number:
        return [local_rank % number]
    return list(range(number))


def idle_devices(indices: list[int]) -> list[Device]:
    """Return name and free memory of each CUDA device, before anything is computed on it. Without a CUDA device, return one device
    "cpu"."""
    devices = []
    for index in indices:
        free, total = torch.cuda.mem_get_info(index)
        devices.append(Device(torch.cuda.get_device_name(index), None, free / total))
    return devices or [Device("cpu", None, None)]


def matmul_tflops(indices: list[int], num_threads: int) -> list[float]:
    """Return the best rate of matrix products in TFLOP/s for each CUDA device, one after the other; without one, that of the CPU with
    `num_threads`."""
    return [_cuda_tflops(index) for index in indices] or [_cpu_tflops(num_threads)]


def _cpu_tflops(num_threads: int) -> float:
    torch.set_num_threads(num_threads)
    matrix = torch.full((CPU_SIZE, CPU_SIZE), 0.5)
    product = torch.empty_like(matrix)
    seconds: list[float] = []
    deadline = time.monotonic() + CPU_SECONDS
    while not seconds or time.monotonic() < deadline:
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=product)
        seconds.append(time.perf_counter() - start)
    return 2 * CPU_SIZE**3 / min(seconds) / 1e12


def _cuda_tflops(index: int) -> float:
    with torch.cuda.device(index):
        matrix = torch.full((CUDA_SIZE, CUDA_SIZE), 0.5, device="cuda", dtype=torch.bfloat16)
        product = matrix @ matrix  # the first product selects the kernel
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(CUDA_PRODUCTS + 1)]
        for mark in marks[:-1]:
            mark.record()
            torch.mm(matrix, matrix, out=product)
        marks[-1].record()
        torch.cuda.synchronize()
        milliseconds = min(one.elapsed_time(next_one) for one, next_one in pairwise(marks))
    return 2 * CUDA_SIZE**3 / (milliseconds / 1e3) / 1e12


def existing_folder(run_dir: Path) -> Path:
    """Return the run dir as an absolute path, or the nearest parent that exists, in which the run dir would be created.

    Raises: NotADirectoryError if that is a file.
    """
    path = run_dir.expanduser().absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file")
    return nearest


def free_bytes(folder: Path | None) -> dict[str, int]:
    """Return the free bytes of the host's memory and of the disks of run dir, temporary folder and /dev/shm. `folder`: the run dir or a
    parent that exists; None if unknown."""
    places = {RUN_DIR: folder, TEMPORARY: Path(tempfile.gettempdir()), SHARED_MEMORY: Path("/dev/shm")}
    free = {name: shutil.disk_usage(place).free for name, place in places.items() if place and place.exists()}
    table = Path("/proc/meminfo")
    if table.exists():
        line = next(line for line in table.read_text().splitlines() if line.startswith("MemAvailable:"))
        free[MEMORY] = int(line.split()[1]) * 1024
    return free


def disk_seconds(folder: Path, name: str) -> float:
    """Write 1 MiB into `folder` three times as a save does (write, sync, rename, sync the folder), and return the shortest time in
    seconds. Leaves no file."""
    content = os.urandom(DISK_BYTES)  # some file systems compress
    return min(_save(folder / f"{name}.tmp", folder / name, content) for _ in range(DISK_ROUNDS))


def _save(temporary: Path, final: Path, content: bytes) -> float:
    try:
        start = time.perf_counter()
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(final)
        sync(final.parent)
        return time.perf_counter() - start
    finally:
        for path in (temporary, final):
            path.unlink(missing_ok=True)


def has_appeared(path: Path, deadline: float) -> bool:
    """Wait until a file that another node has written is visible here; False if it is not by `deadline` (time.monotonic()). A network
    file system may show it late."""
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def stale_locks(now: float) -> list[str]:
    """Return the paths of lock files that killed builds left in torch's cache of extensions: older than LOCK_SECONDS at the time `now`
    (time.time()). The next process that needs the extension would wait for them silently."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(cache, "torch_extensions"))  # torch.utils.cpp_extension imports setuptools
    found = [*root.glob("*/lock"), *root.glob("*/*/lock")]  # with or without a folder for the Python version
    return sorted(str(path) for path in found if now - path.stat().st_mtime > LOCK_SECONDS)
