"""Settings of glibc's memory allocator: one set while engines are built, another one for training. Does nothing with another C library."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
MMAP_BLOCKS = 65536  # glibc's default


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "mallopt") else None


@contextlib.contextmanager
def returning_memory() -> Iterator[None]:
    """In this block, in which engines are built, large allocations use mmap, so the memory of a layer returns to the system as soon as
    the layer is partitioned. With the defaults, each rank would keep twice the whole model. After the block, freed memory is kept and
    reused, which makes a CPU step about a tenth faster."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, MMAP_BLOCKS)
    libc.mallopt(M_MMAP_THRESHOLD, 65536)
    try:
        yield
    finally:
        gc.collect()
        libc.malloc_trim(0)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
