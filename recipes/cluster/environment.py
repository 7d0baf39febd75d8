"""The environment variables that the launcher and the user set, read before torch is imported. Torch-free."""

import logging
import os
import subprocess
import warnings
from pathlib import Path
from typing import NamedTuple

from recipes.cluster import slurm
from recipes.errors import ConfigError

MOST_RANKS = 1_000_000
NUMBERS = {
    **dict.fromkeys(("RANK", "LOCAL_RANK"), range(MOST_RANKS)),
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"), range(1, MOST_RANKS + 1)),
    "MASTER_PORT": range(1, 65536),
}
"""Variables that launchers set -> their valid values."""
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_SIZE")
"""Variables that only torchrun and deepspeed set. They show that one of these launchers has started this process."""
DEVICES = Path("/dev")


class LaunchedWorld(NamedTuple):
    """This process among all processes of the run: its rank and their number, over all nodes and on its own node (local)."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int | None = None
    """Processes on this node; None if the launcher does not set it."""


def require_one_process(what: str, script: str) -> None:
    """Check that a command which runs on one process was not started on several. `what`: the command, for the message; `script`: its path.
    Raises: ConfigError."""
    if (size := world_from_environment().size) > 1:
        raise ConfigError(f"{what} runs on one process, {size} were started; use python {script}")


def world_from_environment() -> LaunchedWorld:
    """Return rank and number of processes from the variables of deepspeed, torchrun or srun (one task per process). Without a launcher:
    one process. No network access.

    Raises: ConfigError if the variables are invalid.
    """
    env = os.environ
    numbers = {name: _number(name, bounds) for name, bounds in NUMBERS.items() if name in env}
    if "RANK" not in env and "WORLD_SIZE" not in env and slurm.is_in_step():
        return _slurm_world()
    rank, size = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
    if rank >= size:
        raise ConfigError(f"RANK={rank} WORLD_SIZE={size}: ranks count from 0 to WORLD_SIZE - 1; unset both or use a launcher")
    local_size = numbers.get("LOCAL_WORLD_SIZE", numbers.get("LOCAL_SIZE"))  # torchrun's, deepspeed's
    return LaunchedWorld(rank, size, numbers.get("LOCAL_RANK", 0), local_size)


def _number(name: str, bounds: range) -> int:
    text = os.environ[name]
    if not (text.strip().isdecimal() and int(text) in bounds):
        raise ConfigError(f"{name}={text!r}: must be a whole number from {bounds[0]} to {bounds[-1]}; unset {name} or use a launcher")
    return int(text)


def stray_variables() -> str | None:
    """Return the names of variables such as RANK that are set although no supported launcher has started this process, with spaces
    between them; None if there are none. They make this process wait for other ranks, and the user can unset them."""
    if slurm.is_in_step() or any(name in os.environ for name in LAUNCHERS):
        return None
    return " ".join(name for name in (*NUMBERS, "MASTER_ADDR") if name in os.environ) or None


def _slurm_world() -> LaunchedWorld:
    try:
        return LaunchedWorld(*slurm.task())
    except (ValueError, KeyError) as error:
        raise ConfigError(f"Slurm's variables of this step make no sense ({error}); set RANK, WORLD_SIZE and LOCAL_RANK yourself") from None


def export_world() -> LaunchedWorld:
    """Return rank and number of processes, and set the variables that torch and DeepSpeed read, such as RANK and, under srun,
    MASTER_ADDR.
    Raises: ConfigError if the launcher's variables are invalid."""
    world = world_from_environment()
    if slurm.is_in_step() and "MASTER_ADDR" not in os.environ:
        try:
            address, port = slurm.rendezvous_point()
        except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(
                f"Slurm's variables do not give the node of this step's first task ({error}); set MASTER_ADDR, MASTER_PORT"
            ) from None
        os.environ["MASTER_ADDR"] = address
        os.environ.setdefault("MASTER_PORT", str(port))
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.local_rank))
    if world.local_size is not None:
        os.environ["LOCAL_WORLD_SIZE"] = str(world.local_size)
    return world


def is_first_rank() -> bool:
    """True on rank 0. Also true if the launcher's variables are invalid, so that the error is printed."""
    try:
        return world_from_environment().rank == 0
    except ConfigError:
        return True


def is_first_on_node() -> bool:
    """True on the first process of each node (local rank 0), which prints errors of its node that occur before the ranks have joined.
    Also true if the launcher's variables are invalid."""
    try:
        return world_from_environment().local_rank == 0
    except ConfigError:
        return True


def requested_accelerator() -> str | None:
    """Return the kind of device that DS_ACCELERATOR requests, "cpu" or "cuda"; None if it is not set. Raises: ConfigError for another
    value."""
    requested = os.environ.get("DS_ACCELERATOR") or None
    if requested not in (None, "cpu", "cuda"):
        raise ConfigError(f"DS_ACCELERATOR={requested!r}: must be cpu or cuda; unset DS_ACCELERATOR for what the machine has")
    return requested


def is_simulated_world() -> bool:
    """True if WORLD_SIZE is set without a launcher or a batch job: it then is the number of ranks that a dry run assumes."""
    return "WORLD_SIZE" in os.environ and not {"RANK", "SLURM_JOB_ID"} & os.environ.keys()


def may_see_devices() -> bool:
    """True if there is an NVIDIA driver, and neither CUDA_VISIBLE_DEVICES nor DS_ACCELERATOR=cpu hides all devices from this process."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or os.environ.get("DS_ACCELERATOR") == "cpu"
    return (DEVICES / "nvidiactl").exists() and not is_hidden


def is_verbose() -> bool:
    """True if the user wants the full output (DATA2VEC_VERBOSE=1)."""
    return os.environ.get("DATA2VEC_VERBOSE") == "1"


def num_devices() -> int:
    """Return the number of NVIDIA devices of this node that a run may use, counted without torch; 0 if they are hidden. In a Slurm job,
    all devices of the job on this node count: a launcher hides the devices that have no rank."""
    env = os.environ
    listed = env.get("SLURM_GPUS_ON_NODE", "") if "SLURM_JOB_ID" in env else env.get("CUDA_VISIBLE_DEVICES", "")
    if not may_see_devices():
        return 0
    if listed:
        return int(listed) if "SLURM_JOB_ID" in env else len(listed.split(","))
    return sum(path.name[6:].isdigit() for path in DEVICES.glob("nvidia*"))


def may_compute_fp16() -> bool:
    """True if the ranks can compute in fp16, as far as this can be found out without torch: they have CUDA devices, or a CPU with the
    instructions that oneDNN requires. In a dry run for an assumed number of ranks it is True."""
    if is_simulated_world() or may_see_devices():
        return True
    try:
        return not {"avx512_fp16", "avx_ne_convert"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def quiet_libraries() -> None:
    """Suppress warnings and log lines of torch, Megatron, DeepSpeed, matplotlib, wandb and the Hugging Face hub's client, unless
    DATA2VEC_VERBOSE=1. Call it before importing them."""
    if is_verbose():
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler; it prints two lines at any lower level
    for name in ("DeepSpeed", "megatron", "torch.distributed", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets the level of its logger when it is imported, but keeps filters.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("WANDB_SILENT", "true")
