"""How much memory a rank has: that of its GPU, or its part of the host's. Torch-free; no CUDA context is made. Errors about lacking memory:
recipes/cluster/memory.py.

The whole memory counts, not what is free at the moment: the micro-batch follows from it, and a run must not depend on what else runs.
"""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from recipes.cluster.environment import is_simulated_world, may_see_devices, requested_accelerator, world_from_environment
from recipes.plan.fit import DeviceMemory

ASSUMED_GPU_BYTES = 79 * 2**30
"""Memory of an H100 or A100 of 80 GB as CUDA reports it: what a dry run assumes for ranks that it imagines."""
CPU_CONFIGS = "zero3_cpu"
"""Beginning of the names of the ds_configs for CPUs."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the limit of this process's control group, of version 2 and 1, as a container sees them."""
MEMORY_INFO = Path("/proc/meminfo")


def rank_memory(config_path: str) -> DeviceMemory | None:
    """Return the memory that each rank on this node may fill; None if it cannot be found out. `config_path`: path of the ds_config, by
    whose name ranks that a dry run imagines are on CPUs or have a GPU each."""
    if may_see_devices():
        smallest = smallest_gpu()
        return DeviceMemory(smallest, on_gpu=True) if smallest else None
    is_for_cpu = requested_accelerator() == "cpu" or Path(config_path).name.startswith(CPU_CONFIGS)
    if is_simulated_world() and not is_for_cpu:
        return DeviceMemory(ASSUMED_GPU_BYTES, on_gpu=True, is_assumed=True)
    world = world_from_environment()
    total = host_memory()
    return DeviceMemory(total // (world.local_size or world.size), on_gpu=False) if total else None


def smallest_gpu() -> int | None:
    """Return the bytes of the smallest CUDA device that this process sees; None without a working driver. The driver's library is asked,
    which counts a part of a divided GPU (MIG) as a device and heeds CUDA_VISIBLE_DEVICES."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, size, sizes = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t(), []
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return None
    for number in range(count.value):
        if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device):
            return None
        sizes.append(size.value)
    return min(sizes, default=None)


def gpu_name() -> str | None:
    """Return the name that the driver gives the first CUDA device, such as "NVIDIA H100 80GB HBM3"; None without a working driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device):
        return None
    return name.value.decode(errors="replace")


def host_memory() -> int | None:
    """Return the bytes of memory that this node's ranks share: the machine's, or less if the control group or the Slurm job has a limit.
    None if the system does not say."""
    found = []
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in MEMORY_INFO.read_text().splitlines() if line.startswith("MemTotal:"))
        found.append(int(line.split()[1]) * 1024)
    for path in LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            found.append(int(path.read_text()))
    with suppress(KeyError, ValueError):
        found.append(int(os.environ["SLURM_MEM_PER_NODE"]) * 2**20)
    return min((size for size in found if size > 0), default=None)
