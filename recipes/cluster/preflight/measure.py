"""What one node measures of itself: versions, devices, products of matrices, memory, disks, locks. Each function raises where it cannot;
who calls keeps the reason. What nodes measure together is in bandwidth.py."""

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
from recipes.cluster.preflight.facts import MEMORY, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device
from recipes.system.durable import sync

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy")
CPU_SIZE, CPU_SECONDS = 1024, 0.4
CUDA_SIZE, CUDA_PRODUCTS = 8192, 10
"""Products of square matrices: fp32 on a CPU, bf16 on a CUDA device, big enough for the peak rate."""
DISK_BYTES, DISK_ROUNDS = 2**20, 3
LOOK_SECONDS = 0.05
LOCK_SECONDS = 600.0
"""A lock of a build that still goes on is younger: DeepSpeed's longest takes a few minutes."""


def versions() -> dict[str, str]:
    """Of Python and the packages whose version decides what a run does, and the digest of the code. Imports none of them."""
    found = {"python": sys.version.split()[0], "checkout": checkout_digest()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def own_devices(local_rank: int, local_size: int) -> list[int]:
    """The CUDA devices that this process speaks for: all of the node, or its own where the node has several processes.

    Raises: RuntimeError where there is a driver and torch sees no device; a run would go on the CPU there without a word.
    """
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not number and may_see_devices():
        raise RuntimeError("there is an NVIDIA driver, and torch sees no device")
    if local_size > 1 and number:
        return [local_rank % number]
    return list(range(number))


def idle_devices(indices: list[int]) -> list[Device]:
    """Before anything is computed. The cores of the process count as one device where there is no other."""
    devices = []
    for index in indices:
        free, total = torch.cuda.mem_get_info(index)
        devices.append(Device(torch.cuda.get_device_name(index), None, free / total))
    return devices or [Device("cpu", None, None)]


def matmul_tflops(indices: list[int], num_threads: int) -> list[float]:
    """The best rate of each device, one after the other."""
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
        product = matrix @ matrix  # picks the kernel
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(CUDA_PRODUCTS + 1)]
        for mark in marks[:-1]:
            mark.record()
            torch.mm(matrix, matrix, out=product)
        marks[-1].record()
        torch.cuda.synchronize()
        milliseconds = min(one.elapsed_time(next_one) for one, next_one in pairwise(marks))
    return 2 * CUDA_SIZE**3 / (milliseconds / 1e3) / 1e12


def folder_of(run_dir: Path) -> Path:
    """The folder to try in place of a run dir that does not exist yet: the nearest one above it, where it would be made.

    Raises: NotADirectoryError where that is a file.
    """
    path = run_dir.expanduser().absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"{nearest} is a file")
    return nearest


def free_bytes(folder: Path | None) -> dict[str, int]:
    """Memory of the host, and what the disks have left, that of the run dir where it is known."""
    places = {RUN_DIR: folder, TEMPORARY: Path(tempfile.gettempdir()), SHARED_MEMORY: Path("/dev/shm")}
    free = {name: shutil.disk_usage(place).free for name, place in places.items() if place and place.exists()}
    table = Path("/proc/meminfo")
    if table.exists():
        line = next(line for line in table.read_text().splitlines() if line.startswith("MemAvailable:"))
        free[MEMORY] = int(line.split()[1]) * 1024
    return free


def disk_seconds(folder: Path, name: str) -> float:
    """The best time of three for what every save does: write, sync, rename, sync the folder. Leaves nothing."""
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
    """Whether a file is seen by `deadline` (monotonic) that another node has written already; a network file system may need a moment."""
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def stale_locks(now: float) -> list[str]:
    """Locks in torch's cache of extensions whose build was killed: the next process that wants the extension waits without a word."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(cache, "torch_extensions"))  # torch's function imports setuptools
    found = [*root.glob("*/lock"), *root.glob("*/*/lock")]  # below the version of Python, or not
    return sorted(str(path) for path in found if now - path.stat().st_mtime > LOCK_SECONDS)
