"""Counts the collectives that this process starts. Torch's CommDebugMode does it too, but it follows modules and fails in a second use."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class CountedCollectives(TorchDispatchMode):
    """In this context, `counts` counts collectives by the name of the c10d operator, such as allreduce_ or _allgather_base_."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func._schema.name.removeprefix("c10d::")] += 1
        return func(*args, **(kwargs or {}))
