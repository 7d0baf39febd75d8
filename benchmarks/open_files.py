"""Counts the open files of each rank: this many processes join as a run on CPUs does, make its process groups, and use each kind of
collective on each of them. The last line continues the growth of one doubling of the ranks up to 512. Data workers, libraries of the
engine and the watch are not counted: they add the same number at any size.

python benchmarks/open_files.py --ranks 8 16 32
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import warnings
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING

from recipes.cluster.command import exit_code_of
from recipes.cluster.slurm import FIRST_PORT, NUM_PORTS

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TARGET = 512


def main() -> int:
    """Parse the flags, count, and print one JSON object per number of ranks. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32], help="numbers of ranks, each twice the one before")
    sizes = parser.parse_args().ranks
    counts = [count_open_files(size) for size in sizes]
    for size, (first, others) in zip(sizes, counts, strict=True):
        print(json.dumps({"ranks": size, "rank 0": first, "another rank": others}), flush=True)
    if len(sizes) > 1:
        doublings = math.log2(TARGET / sizes[-1])
        others = counts[-1][1] + doublings * (counts[-1][1] - counts[-2][1])
        first = others + counts[-1][0] - counts[-1][1] + TARGET - sizes[-1]  # the store: a connection per rank
        print(json.dumps({"ranks": TARGET, "rank 0": round(first), "another rank": round(others), "extrapolated": True}))
    return 0


def count_open_files(num_ranks: int) -> tuple[int, int]:
    """Return the number of open files of rank 0, and the largest number of the other ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "recipes.cluster.world", "model.parallel"])
    port = FIRST_PORT + (7 * os.getpid() + num_ranks) % NUM_PORTS  # rank 0 opens it: one from the kernel may be taken by then
    found: Queue[tuple[int, int]] = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, num_ranks, port, found)) for rank in range(num_ranks)]
    for rank in ranks:
        rank.start()
    counts = dict(found.get(timeout=300) for _ in ranks)
    for rank in ranks:
        rank.join(60)
    return counts[0], max(count for rank, count in counts.items() if rank or num_ranks == 1)


def _rank(rank: int, size: int, port: int, found: Queue) -> None:
    warnings.simplefilter("ignore")  # torch 2.13 renames collectives that torch 2.11 has under the old name alone
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    from model.parallel import init_parallel
    from recipes.cluster.world import build_control_group, join_world, leave_world

    world = join_world()
    groups = [None, init_parallel(1, "cpu").dp_group, world.control, build_control_group()]
    for group in groups:
        use(group, size)
    world.gather(None)
    found.put((rank, len(os.listdir("/proc/self/fd"))))
    world.gather(None)
    leave_world()


def use(group: "ProcessGroup | None", size: int) -> None:
    """Run each kind of collective that a run uses on a group of `size` ranks; None means the default group."""
    import torch
    import torch.distributed as dist

    one, all_ = torch.ones(64), torch.ones(64 * size)
    for _ in range(2):
        dist.all_reduce(one, group=group)
        dist.broadcast(one, 0, group=group)
        dist.all_gather(list(all_.chunk(size)), one, group=group)
        dist.all_gather_into_tensor(all_, one, group=group)
        dist.reduce_scatter_tensor(one, all_, group=group)
        dist.all_gather_object([None] * size, "rank", group=group)
        dist.broadcast_object_list(["rank"], src=0, group=group)
        dist.barrier(group=group)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
