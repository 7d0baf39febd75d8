"""Speed of the network: the rate of an all-reduce over all nodes, and of each node's exchange with other nodes. One process per node."""

import datetime
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from recipes.cluster.preflight.node_report import ALL_REDUCE, EXCHANGE

CPU_BYTES, CUDA_BYTES = 16 * 2**20, 256 * 2**20
ROUNDS = 3
SHIFTS = (1, 2)
"""Distances in rank between a node and the partners of its exchanges. A slow node also slows its partners. From four nodes on, a node has
different partners at the two distances. The better of its two rates is therefore low only if the node itself is slow."""


def bandwidth(store: dist.Store, rank: int, size: int, index: int | None, timeout: float) -> dict[str, float]:
    """Measure the network and return GB/s: all-reduce over all `size` ranks and, from four ranks on, exchange with two other ranks. It
    uses nccl on CUDA device `index`, or gloo if `index` is None.

    Raises: RuntimeError if nodes cannot reach each other within `timeout` seconds, or if a sum is wrong.
    """
    device = torch.device("cpu") if index is None else torch.device("cuda", index)
    if index is not None:
        torch.cuda.set_device(device)
    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo" if index is None else "nccl", store=store, rank=rank, world_size=size, timeout=limit)
    try:
        rates = {ALL_REDUCE: _all_reduce(device, size)}
        return rates | ({EXCHANGE: _exchange(device, rank, size)} if size > 2 * max(SHIFTS) - 1 else {})
    finally:
        dist.destroy_process_group()


def _all_reduce(device: torch.device, size: int) -> float:
    """Return the bus bandwidth of an all-reduce in GB/s, as nccl-tests defines it: what each link carries, whatever the number of nodes."""
    values = _values(device)
    dist.all_reduce(values)  # opens the connections
    if not bool((values == size).all()):
        raise RuntimeError(f"a sum of {size} ones is {values.min().item():g} to {values.max().item():g}")
    return 2 * (size - 1) / size * _rate(values, lambda: dist.all_reduce(values))


def _exchange(device: torch.device, rank: int, size: int) -> float:
    values, received = _values(device), _values(device)
    best = 0.0
    for shift in SHIFTS:

        def exchange(shift: int = shift) -> None:
            sent = dist.P2POp(dist.isend, values, (rank + shift) % size)
            for work in dist.batch_isend_irecv([sent, dist.P2POp(dist.irecv, received, (rank - shift) % size)]):
                work.wait()

        dist.barrier()
        best = max(best, _rate(values, exchange))
    return best


def _values(device: torch.device) -> torch.Tensor:
    return torch.ones((CPU_BYTES if device.type == "cpu" else CUDA_BYTES) // 4, device=device)


def _rate(values: torch.Tensor, job: Callable[[], object]) -> float:
    """Run `job`, which moves `values`, three times and return the rate of the fastest one in GB/s."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        job()
        if values.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return values.nbytes / min(seconds) / 1e9
