"""What the launcher and the shell told this process, read before torch is imported. Torch-free."""

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
"""What launchers set, and what each may be."""
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_SIZE")
"""What torchrun and deepspeed set beside them."""
DEVICES = Path("/dev")


class LaunchedWorld(NamedTuple):
    """This process among those that were launched together."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int | None = None
    """Processes on this node; None where the launcher does not say."""


def world_from_environment() -> LaunchedWorld:
    """The world as deepspeed, torchrun or srun (one task per process) set it; one process under plain python. Touches no network.

    Raises: ConfigError where the variables make no sense.
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


def left_over() -> str | None:
    """Where no launcher that is known has started this process: the variables that make it one of several, to be unset."""
    if slurm.is_in_step() or any(name in os.environ for name in LAUNCHERS):
        return None
    return " ".join(name for name in (*NUMBERS, "MASTER_ADDR") if name in os.environ) or None


def _slurm_world() -> LaunchedWorld:
    try:
        return LaunchedWorld(*slurm.task())
    except (ValueError, KeyError) as error:
        raise ConfigError(f"Slurm's variables of this step make no sense ({error}); set RANK, WORLD_SIZE and LOCAL_RANK yourself") from None


def export_world() -> LaunchedWorld:
    """The world, written into the variables that torch and DeepSpeed read. Raises: ConfigError."""
    world = world_from_environment()
    if slurm.is_in_step() and "MASTER_ADDR" not in os.environ:
        try:
            address, port = slurm.rendezvous_point()
        except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as error:
            raise ConfigError(f"Slurm does not say where the first task of this step is ({error}); set MASTER_ADDR, MASTER_PORT") from None
        os.environ["MASTER_ADDR"] = address
        os.environ.setdefault("MASTER_PORT", str(port))
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.local_rank))
    if world.local_size is not None:
        os.environ["LOCAL_WORLD_SIZE"] = str(world.local_size)
    return world


def is_first_rank() -> bool:
    """Whether this process speaks for the run; one that was told nonsense does, for nobody else would."""
    try:
        return world_from_environment().rank == 0
    except ConfigError:
        return True


def is_first_on_node() -> bool:
    """Whether this process speaks for its node, where something went wrong there before the ranks have met."""
    try:
        return world_from_environment().local_rank == 0
    except ConfigError:
        return True


def asked_accelerator() -> str | None:
    """The kind of device that DS_ACCELERATOR names; None where nobody asks. Raises: ConfigError for one that is not supported."""
    asked = os.environ.get("DS_ACCELERATOR") or None
    if asked not in (None, "cpu", "cuda"):
        raise ConfigError(f"DS_ACCELERATOR={asked!r}: must be cpu or cuda; unset DS_ACCELERATOR for what the machine has")
    return asked


def is_imagined() -> bool:
    """Whether the user has set the number of ranks for a dry run. A launcher numbers them, and a batch job has its own nodes."""
    return "WORLD_SIZE" in os.environ and not {"RANK", "SLURM_JOB_ID"} & os.environ.keys()


def may_see_devices() -> bool:
    """Whether there is an NVIDIA driver and the user has not hidden all devices from this process."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or os.environ.get("DS_ACCELERATOR") == "cpu"
    return (DEVICES / "nvidiactl").exists() and not is_hidden


def is_verbose() -> bool:
    """Whether the user wants to see everything (DATA2VEC_VERBOSE=1)."""
    return os.environ.get("DATA2VEC_VERBOSE") == "1"


def num_devices() -> int:
    """NVIDIA devices of this node that a run may use, counted without torch. In a Slurm job all that it was given count: there a launcher
    hides those without a rank."""
    env = os.environ
    told = env.get("SLURM_GPUS_ON_NODE", "") if "SLURM_JOB_ID" in env else env.get("CUDA_VISIBLE_DEVICES", "")
    if not may_see_devices():
        return 0
    if told:
        return int(told) if "SLURM_JOB_ID" in env else len(told.split(","))
    return sum(path.name[6:].isdigit() for path in DEVICES.glob("nvidia*"))


def may_compute_fp16() -> bool:
    """Whether the ranks that this process would be one of may have fp16, as far as can be told without torch: with a device, and on a
    CPU with the instructions that oneDNN asks for."""
    if is_imagined() or may_see_devices():
        return True
    try:
        return not {"avx512_fp16", "avx_ne_convert"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


def quiet_libraries() -> None:
    """Keep the chatter of torch, Megatron, DeepSpeed and the hub's client off the terminal unless DATA2VEC_VERBOSE=1. Call
    before importing them."""
    if is_verbose():
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("DeepSpeed", "megatron", "torch.distributed", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets its own level when it is imported; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("WANDB_SILENT", "true")
