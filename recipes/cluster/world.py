"""The processes of one run: who they are, how they find each other, and how they do something once or everywhere. No groups of the
model here (model/parallel.py) and no DeepSpeed. Whether they fit together: recipes/cluster/world_check.py."""

import datetime
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from recipes.cluster.environment import LaunchedWorld, asked_accelerator, export_world, left_over
from recipes.cluster.rendezvous import Rendezvous, open_rendezvous
from recipes.cluster.slurm import allocated_nodes, node_name
from recipes.errors import ConfigError, LocalError, Stopped, TrainingBroken

Result = TypeVar("Result")
LONGEST_PREPARATION = datetime.timedelta(days=2)
RENDEZVOUS_SECONDS = 300.0
"""How long rank 0 waits for the others at the start: a cold file system may take minutes to read the libraries on a thousand nodes."""

SILENT_SECONDS = 3.0
"""How long rank 0 waits for the others before it says so."""


@dataclass(frozen=True)
class World:
    """This process among those of the run. `control` is a gloo group for messages that may take long to come."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup
    hosts: tuple[str, ...] = ("localhost",)
    """The node of each rank."""

    def on_rank_zero(self, job: Callable[[], Result]) -> Result:
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

    def on_all_ranks(self, job: Callable[[], Result]) -> Result:
        """Run `job` on every rank; its own result on each. A user's error on any of them is raised on all, with its node's name."""
        result, problem = None, None
        try:
            result = job()
        except ConfigError as error:
            problem = error
        problems = self.gather(str(problem) if problem else None)
        met = {self.hosts[rank]: text for rank, text in enumerate(problems) if text is not None}
        if len(set(met.values())) == 1 and None not in problems:
            raise ConfigError(problems[0])  # the same on all: not a matter of nodes
        if met:
            node, text = next(iter(met.items()))
            raise ConfigError(f"{node}: {text}" + (f" (also on {', '.join(list(met)[1:])})" if len(met) > 1 else ""))
        return result  # type: ignore[return-value]

    def gather(self, value: Result) -> list[Result]:
        """The values of all ranks, in their order."""
        values: list = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def largest(self, number: int) -> int:
        """Of the numbers of all ranks."""
        shared = torch.tensor(number, dtype=torch.int64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return int(shared)


def join_world(say: Callable[[str], None] = print) -> World:
    """Start torch.distributed from the launcher's variables (deepspeed, torchrun, srun), or alone. nccl on CUDA, gloo elsewhere. `say` is
    told where the others are waited for.

    Raises: ConfigError where ranks do not come within DATA2VEC_MEETING_SECONDS (300), the port is taken, or rank 0 is not to be reached.
    """
    on_cuda = _is_on_cuda()
    os.environ["DS_ACCELERATOR"] = "cuda" if on_cuda else "cpu"
    variables = left_over()
    launched = export_world()
    origin = f" (no launcher has set {variables}; for one process: unset {variables})" if variables else ""
    if launched.rank and "MASTER_ADDR" not in os.environ:
        raise LocalError(f"rank {launched.rank} of {launched.size} is not told where rank 0 is; set MASTER_ADDR and MASTER_PORT{origin}")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    device = _take_device(launched.local_rank) if on_cuda else torch.device("cpu")
    if not dist.is_initialized():
        rendezvous = open_rendezvous(launched.rank, launched.size, _rendezvous_seconds(), name="train")
        _wait_for_all(rendezvous, launched, origin, say)
        dist.init_process_group("nccl" if on_cuda else "gloo", store=rendezvous.store, rank=launched.rank, world_size=launched.size)
    control = dist.new_group(backend="gloo", timeout=LONGEST_PREPARATION)
    nodes: list = [None] * launched.size
    dist.all_gather_object(nodes, node_name(), group=control)
    return World(launched.rank, launched.size, device, control, tuple(nodes))


def _is_on_cuda() -> bool:
    """Whether there is a CUDA device, and DS_ACCELERATOR does not ask for the CPU. Raises: ConfigError where it asks in vain for one."""
    asked, is_there = asked_accelerator(), torch.cuda.is_available()
    if asked == "cuda" and not is_there:
        raise ConfigError(f"DS_ACCELERATOR=cuda, but torch finds no CUDA device on {node_name()}; unset DS_ACCELERATOR to use the CPU")
    return is_there and asked != "cpu"


def _take_device(local_rank: int) -> torch.device:
    """This process's CUDA device. LOCAL_RANK follows it, since torch's meshes and DeepSpeed take that for the number of a device; they
    differ where each task of a node sees its own device alone (`srun --gpus-per-task=1`)."""
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    os.environ["LOCAL_RANK"] = str(device.index)
    return device


def _wait_for_all(rendezvous: Rendezvous, launched: LaunchedWorld, origin: str, say: Callable[[str], None]) -> None:
    """Raises: ConfigError on all that have come, where others have not: torch would wait half an hour and name nobody."""
    everybody = list(range(rendezvous.size))
    came = rendezvous.collect("came", True, everybody, min(SILENT_SECONDS, rendezvous.timeout))
    missing = [rank for rank in everybody if rank not in came] if rendezvous.rank == 0 else []
    if missing:
        say(f"waiting up to {rendezvous.timeout:g} s for {len(missing)} of {rendezvous.size} ranks{origin}")
        came |= rendezvous.collect("came", True, missing)
        missing = [rank for rank in missing if rank not in came]
    missing = rendezvous.from_first("missing", missing)
    if missing:
        nodes, per_node = allocated_nodes(), launched.local_size or rendezvous.size
        there = sorted({nodes[rank // per_node] for rank in missing if rank // per_node < len(nodes)})
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise ConfigError(
            f"{len(missing)} of {rendezvous.size} ranks have not come within {rendezvous.timeout:g} s: {shown}"
            f"{' (' + ', '.join(there) + ')' if there else ''}; see what their nodes say, or wait longer with "
            f"DATA2VEC_MEETING_SECONDS{origin}"
        )


def _rendezvous_seconds() -> float:
    text = os.environ.get("DATA2VEC_MEETING_SECONDS", str(RENDEZVOUS_SECONDS))
    with suppress(ValueError):
        if 0 < float(text) <= LONGEST_PREPARATION.total_seconds():
            return float(text)
    raise ConfigError(f"DATA2VEC_MEETING_SECONDS={text}: must be seconds, from above 0 to two days; unset it for {RENDEZVOUS_SECONDS:g}")


def leave_world() -> None:
    """Take the process groups down, so that no backend warns at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
