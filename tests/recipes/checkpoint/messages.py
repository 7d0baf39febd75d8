"""Records the process groups in which the ranks exchange objects, for tests. On the CPU every group works; on GPUs a wrong one breaks the
run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXCHANGES = ("all_gather_object", "broadcast_object_list")


@contextmanager
def groups_in_use() -> Iterator[set[Any]]:
    """Yield the set of groups of all exchanges of this process in this block, in any thread. None is the default group."""
    import torch.distributed as dist

    groups: set[Any] = set()
    kept = {name: getattr(dist, name) for name in EXCHANGES}

    def recording(exchange: Callable[..., None]) -> Callable[..., None]:
        def recorded(*args: Any, group: Any = None, **kwargs: Any) -> None:
            groups.add(group)
            exchange(*args, group=group, **kwargs)

        return recorded

    for name, exchange in kept.items():
        setattr(dist, name, recording(exchange))
    try:
        yield groups
    finally:
        for name, exchange in kept.items():
            setattr(dist, name, exchange)
