"""This process as a world of its own, for as long as a check lasts."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.parallel import Parallel, init_parallel
from recipes.cluster.world import World, join_world, leave_world


@contextmanager
def joined() -> Iterator[tuple[World, Parallel]]:
    """The world and its groups. At the end they are taken down, and the device's memory is given back."""
    world = join_world()
    try:
        yield world, init_parallel(1, world.device.type)
    finally:
        leave_world()
        release()


def release() -> None:
    """Give the device's memory back to it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
