"""Where the numbers of a plan come from. Torch-free."""

from recipes.plan.devices import NUMBERS, Sourced, assumed, measured, tabulated
from recipes.plan.fit import MEMORY_SHARE
from recipes.plan.step import HOST_SECONDS, OFFLOAD_GIGABYTES_PER_SECOND, OPTIMIZER_BYTES, PASSES, WORKERS
from recipes.planner.run_plan import (
    COPY_GIGABYTES_PER_SECOND,
    DEVICE_MTBF_HOURS,
    FILE_GIGABYTES_PER_SECOND,
    HOST_GIB,
    RESTART_SECONDS,
    SAVE_SECONDS,
    RunPlan,
)

HOST = "benchmarks/host_time.py, text, two cores of an AMD EPYC (Zen 4)"
FITTED = "updates of text on two cores of an AMD EPYC (Zen 4), docs/planner.md"


def sources_of(plan: RunPlan) -> dict[str, Sourced]:
    """Return the numbers that a plan reads from tables: of its device, and the constants of the arithmetic."""
    device, precision = plan.cluster.device, plan.config.precision
    names = [f"peak_teraflops.{precision}", *NUMBERS]
    found = {name: device.sources[name] for name in names if name in device.sources}
    host = {f"host seconds of a block, {name}": measured(value, HOST) for name, value in HOST_SECONDS.items()}
    passes = {f"bytes moved for each byte of activations, {name}": measured(value, FITTED) for name, value in PASSES.items()}
    rates = {f"GB/s of an offloaded optimizer, {name}": assumed(value, "usual") for name, value in OFFLOAD_GIGABYTES_PER_SECOND.items()}
    return (
        found
        | host
        | passes
        | rates
        | {
            "bytes moved for each trained weight": measured(OPTIMIZER_BYTES[precision], "counted: what norm, AdamW and EMA read and write"),
            "worker processes of a rank": assumed(WORKERS, "if data.num_workers leaves it open"),
            "share of the memory that a layout may fill": assumed(MEMORY_SHARE, "room for the libraries"),
            "seconds of reading a sample": measured(plan.recipe.data.reading_seconds, "benchmarks/data_wait.py, docs/performance.md"),
            "device hours between interruptions": tabulated(DEVICE_MTBF_HOURS, "Llama 3, arXiv 2407.21783, section 3.3.4"),
            "GB/s of the copy for a checkpoint": assumed(COPY_GIGABYTES_PER_SECOND, "a share of PCIe"),
            "host memory_gib for each device": assumed(HOST_GIB, "nodes of eight often have 1.5 to 2 TB"),
            "seconds of a save beside the copy": assumed(SAVE_SECONDS, "its beginning on all ranks"),
            "GB/s of writing a checkpoint": assumed(FILE_GIGABYTES_PER_SECOND, "all ranks together, on a shared file system"),
            "seconds to restart": assumed(RESTART_SECONDS, "queue, start and loading"),
        }
    )
