"""The processes of one run: they join each other, and run functions on rank 0 or on all ranks. The process groups of the model are in
model/parallel.py. Whether the processes fit together is checked in recipes/cluster/world_check.py. No DeepSpeed."""

import datetime
import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from recipes.cluster.environment import LaunchedWorld, export_world, requested_accelerator, stray_variables
from recipes.cluster.open_files import require_open_files
from recipes.cluster.rendezvous import Rendezvous, open_rendezvous
from recipes.cluster.slurm import allocated_nodes, node_name
from recipes.errors import ConfigError, LocalError, Stopped, TrainingBroken
from recipes.watch.flight_recorder import enable_flight_recorder

Result = TypeVar("Result")
LONGEST_PREPARATION = datetime.timedelta(days=2)
RENDEZVOUS_SECONDS = 300.0
"""How long rank 0 waits for the other ranks at the start. A file system with cold caches may take minutes to load the libraries on a
thousand nodes."""

SECONDS_BEFORE_NOTICE = 3.0
"""How long rank 0 waits for the other ranks before it prints a line about it."""


@dataclass(frozen=True)
class World:
    """This process and all processes of the run. `control` is a gloo group with a time limit of two days, for messages between ranks
    that may take long to prepare."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup
    hosts: tuple[str, ...] = ("localhost",)
    """Node name of each rank."""

    def on_rank_zero(self, job: Callable[[], Result]) -> Result:
        """Run `job` on rank 0 while the others wait, and return its result on all ranks. Its ConfigError, TrainingBroken or Stopped is
        raised on all ranks. A collective."""
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
        """Run `job` on every rank and return each rank's own result. A ConfigError on any rank is raised on all ranks, with the node's
        name unless the error is the same on all. A collective."""
        result, problem = None, None
        try:
            result = job()
        except ConfigError as error:
            problem = error
        problems = self.gather(str(problem) if problem else None)
        failed = {self.hosts[rank]: text for rank, text in enumerate(problems) if text is not None}
        if len(set(failed.values())) == 1 and None not in problems:
            raise ConfigError(problems[0])  # the same on all ranks, so the node does not matter
        if failed:
            node, text = next(iter(failed.items()))
            raise ConfigError(f"{node}: {text}" + (f" (also on {', '.join(list(failed)[1:])})" if len(failed) > 1 else ""))
        return result  # type: ignore[return-value]

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all ranks, in rank order, on every rank. A collective."""
        values: list = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the ranks pass, on every rank. A collective."""
        shared = torch.tensor(number, dtype=torch.int64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return int(shared)


def join_world(say: Callable[[str], None] = print) -> World:
    """Wait for all ranks of the launcher (deepspeed, torchrun, srun; else one process) and start torch.distributed: nccl on CUDA, gloo
    elsewhere. `say` prints a line if rank 0 has to wait.

    Raises: ConfigError if ranks do not join within DATA2VEC_RENDEZVOUS_SECONDS (300), the port is in use, rank 0 cannot be reached,
    ranks share a CUDA device, or so many ranks need more open files than the system allows.
    """
    on_cuda = _is_on_cuda()
    os.environ["DS_ACCELERATOR"] = "cuda" if on_cuda else "cpu"
    if on_cuda:
        enable_flight_recorder()
    variables = stray_variables()
    launched = export_world()
    require_open_files(launched.size)
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")  # else each gloo group connects every rank to every other one
    origin = f" (no launcher has set {variables}; for one process: unset {variables})" if variables else ""
    if launched.rank and "MASTER_ADDR" not in os.environ:
        raise LocalError(f"rank {launched.rank} of {launched.size} has no address of rank 0; set MASTER_ADDR and MASTER_PORT{origin}")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    device = _take_device(launched.local_rank) if on_cuda else torch.device("cpu")
    if not dist.is_initialized():
        rendezvous = open_rendezvous(launched.rank, launched.size, _rendezvous_seconds(), name="train")
        _wait_for_all(rendezvous, launched, origin, say)
        dist.init_process_group("nccl" if on_cuda else "gloo", store=rendezvous.store, rank=launched.rank, world_size=launched.size)
    control = build_control_group()
    places: list = [None] * launched.size
    dist.all_gather_object(places, (node_name(), _device_id(device)), group=control)
    if complaint := _shared_devices(places):
        leave_world()
        raise ConfigError(complaint)
    return World(launched.rank, launched.size, device, control, tuple(node for node, _ in places))


def build_control_group() -> dist.ProcessGroup:
    """Make a group of all ranks for messages that may take long to prepare: gloo, with a time limit of two days. A collective.

    gloo connects two ranks when a collective first needs it. The ring and the tree of ranks that collectives use are connected here:
    later, the end of a rank is an error on its neighbours, which else may wait for a connection from it.
    """
    group = dist.new_group(backend="gloo", timeout=LONGEST_PREPARATION)
    dist.all_reduce(torch.zeros(1), group=group)
    dist.broadcast(torch.zeros(1), 0, group=group)
    return group


def _is_on_cuda() -> bool:
    """True if this run uses CUDA: there is a device, and DS_ACCELERATOR does not request the CPU. Raises: ConfigError if it requests
    CUDA and there is no device."""
    requested, is_available = requested_accelerator(), torch.cuda.is_available()
    if requested == "cuda" and not is_available:
        raise ConfigError(f"DS_ACCELERATOR=cuda, but torch finds no CUDA device on {node_name()}; unset DS_ACCELERATOR to use the CPU")
    return is_available and requested != "cpu"


def _take_device(local_rank: int) -> torch.device:
    """Select and return this process's CUDA device, and set LOCAL_RANK to its index, since torch's device meshes and DeepSpeed use
    LOCAL_RANK as the index of a device. Rank and index differ if each task of a node sees only its own device (`srun
    --gpus-per-task=1`)."""
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    os.environ["LOCAL_RANK"] = str(device.index)
    return device


def _device_id(device: torch.device) -> str | None:
    """Return an id that no other device has, also if tasks of one node see different devices under one index; None for the CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def _shared_devices(places: list[tuple[str, str | None]]) -> str | None:
    """Return the complaint if two ranks have one CUDA device, for which NCCL raises "Duplicate GPU detected"; None if not. `places`: node
    and id of the device of each rank."""
    shared = [(node, device) for (node, device), count in Counter(places).items() if device is not None and count > 1]
    if not shared:
        return None
    on_node = [device for node, device in places if node == shared[0][0]]
    devices = len(set(on_node))
    return (
        f"{len(on_node)} ranks on {shared[0][0]}, but they see {devices} CUDA device{'s' * (devices > 1)}, and NCCL needs one per rank; "
        f"start {devices} there (deepspeed --num_gpus {devices}, torchrun --nproc_per_node {devices}, srun --ntasks-per-node={devices}), "
        "or make more visible (CUDA_VISIBLE_DEVICES, srun --gpus-per-task=1)"
    )


def _wait_for_all(rendezvous: Rendezvous, launched: LaunchedWorld, origin: str, say: Callable[[str], None]) -> None:
    """Wait until all ranks have joined, and print a line on rank 0 if it takes long. `origin`: end of the messages.
    Raises: ConfigError on the ranks that have joined, if others have not. torch would wait half an hour and not name them."""
    all_ranks = list(range(rendezvous.size))
    joined = rendezvous.collect("joined", True, all_ranks, min(SECONDS_BEFORE_NOTICE, rendezvous.timeout))
    missing = [rank for rank in all_ranks if rank not in joined] if rendezvous.rank == 0 else []
    if missing:
        say(f"waiting up to {rendezvous.timeout:g} s for {len(missing)} of {rendezvous.size} ranks{origin}")
        joined |= rendezvous.collect("joined", True, missing)
        missing = [rank for rank in missing if rank not in joined]
    missing = rendezvous.broadcast("missing", missing)
    if missing:
        nodes, per_node = allocated_nodes(), launched.local_size or rendezvous.size
        hosts = sorted({nodes[rank // per_node] for rank in missing if rank // per_node < len(nodes)})
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise ConfigError(
            f"{len(missing)} of {rendezvous.size} ranks have not joined within {rendezvous.timeout:g} s: {shown}"
            f"{' (' + ', '.join(hosts) + ')' if hosts else ''}; see the logs of their nodes, or wait longer with "
            f"DATA2VEC_RENDEZVOUS_SECONDS{origin}"
        )


def _rendezvous_seconds() -> float:
    text = os.environ.get("DATA2VEC_RENDEZVOUS_SECONDS", str(RENDEZVOUS_SECONDS))
    with suppress(ValueError):
        if 0 < float(text) <= LONGEST_PREPARATION.total_seconds():
            return float(text)
    raise ConfigError(f"DATA2VEC_RENDEZVOUS_SECONDS={text}: must be seconds, from above 0 to two days; unset it for {RENDEZVOUS_SECONDS:g}")


def leave_world() -> None:
    """Destroy torch's process groups, so that no backend prints a warning at exit. Does nothing if there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
