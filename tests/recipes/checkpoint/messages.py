"""In which process groups the ranks exchange objects, for tests: on the CPU every group serves, on GPUs a wrong one costs the run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXCHANGES = ("all_gather_object", "broadcast_object_list")


@contextmanager
def groups_in_use() -> Iterator[set[Any]]:
    """The groups of all exchanges of this process in this block, in any thread; None stands for the default group."""
    import torch.distributed as dist

    groups: set[Any] = set()
    kept = {name: getattr(dist, name) for name in EXCHANGES}

    def noting(exchange: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any, group: Any = None, **kwargs: Any) -> None:
            groups.add(group)
            exchange(*args, group=group, **kwargs)

        return noted

    for name, exchange in kept.items():
        setattr(dist, name, noting(exchange))
    try:
        yield groups
    finally:
        for name, exchange in kept.items():
            setattr(dist, name, exchange)
