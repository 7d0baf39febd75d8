"""Process groups of one process, which modules of model/ need to be built without ranks."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from model.parallel import Parallel, init_parallel


@pytest.fixture(scope="package")
def parallel() -> Iterator[Parallel]:
    """TP 1, DP 1 over a gloo group of this process. It is destroyed after the tests of model/."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_parallel(1, "cpu")
    dist.destroy_process_group()
