"""The processes of one run: who they are, how they find each other, and how they do something once. No groups of the
model here (model/parallel.py) and no DeepSpeed."""

import datetime
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from recipes.errors import ConfigError, Stopped, TrainingBroken
from recipes.train.environment import world_from_environment

Result = TypeVar("Result")
LONGEST_PREPARATION = datetime.timedelta(days=2)


@dataclass(frozen=True)
class World:
    """This process among those of the run. `control` is a gloo group for messages that may take long to come."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup

    def once(self, job: Callable[[], Result]) -> Result:
        """Run `job` on rank 0 while the others wait, and give its result to all. A user's error and a stop are raised on all."""
        outcome: list = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = job()
            except (ConfigError, TrainingBroken, Stopped) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.control)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


def join_world() -> World:
    """Start torch.distributed from the launcher's variables, or alone. nccl on CUDA, gloo elsewhere."""
    on_cuda = torch.cuda.is_available()
    if not on_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    rank, size = world_from_environment()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    local_rank = os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    device = torch.device("cuda", int(local_rank)) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_cuda else "gloo")
    control = dist.new_group(backend="gloo", timeout=LONGEST_PREPARATION)
    return World(rank, size, device, control)


def leave_world() -> None:
    """Take the process groups down, so that no backend warns at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
