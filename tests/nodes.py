"""Made-up nodes for tests of recipes/cluster/preflight: their measured facts, and hooks that replace a measurement in a real process."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recipes.cluster.preflight.node_report import ALL_REDUCE, EXCHANGE, MEMORY, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device, NodeReport

FIT = NodeReport(
    host="",
    versions={"python": "3.11.4", "torch": "2.13.0", "checkout": "0123456789abcdef"},
    num_cores=2,
    devices=[Device("cpu", 0.1, None)],
    free_bytes={MEMORY: 2**34, RUN_DIR: 2**40, TEMPORARY: 2**35, SHARED_MEMORY: 2**33},
    disk_seconds=0.01,
    seconds_ahead=0.0,
    sees_first=True,
    gb_per_second={ALL_REDUCE: 1.0, EXCHANGE: 1.0},
    stale_locks=[],
    errors={},
)


def node(rank: int, **changes: Any) -> NodeReport:
    """Return the facts of a healthy node of its own name, node-RANK+1, with `changes`. A dict changes only the keys that it has; an empty
    dict removes all keys."""
    merged = {key: {**getattr(FIT, key), **value} if isinstance(value, dict) and value else value for key, value in changes.items()}
    return replace(FIT, **{"host": f"node-{rank + 1}", **merged})


def nodes(number: int, **odd: dict[str, Any]) -> dict[int, NodeReport]:
    """Return rank -> facts of `number` healthy nodes, with changes of the named ones, such as nodes(4, node_2={"disk_seconds": 1.0}).
    node_1 is rank 0."""
    assert all(int(name.removeprefix("node_")) <= number for name in odd)
    return {rank: node(rank, **odd.get(f"node_{rank + 1}", {})) for rank in range(number)}


@dataclass(frozen=True)
class Measures:
    """A hook for tests.launching. It replaces a function of recipes/cluster/preflight by one that returns `value`, or raises it if it is
    an exception."""

    module: str
    function: str
    value: Any

    def __call__(self) -> None:
        """Replace the function. Called in the process that runs the command."""
        setattr(importlib.import_module(f"recipes.cluster.preflight.{self.module}"), self.function, self._instead)

    def _instead(self, *_: object) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


@dataclass(frozen=True)
class Hooks:
    """Several hooks for tests.launching as one."""

    all: tuple[Callable[[], Any], ...]

    def __call__(self) -> None:
        """Call each hook. Called in the process that runs the command."""
        for hook in self.all:
            hook()


@dataclass(frozen=True)
class ShowsArguments:
    """A hook for tests.launching. It replaces a function of recipes/cluster/preflight by one that raises an error with its own arguments,
    which the command then prints as the reason."""

    module: str
    function: str
    first: int = 0
    """Index of the first argument that the error shows."""

    def __call__(self) -> None:
        """Replace the function. Called in the process that runs the command."""
        setattr(importlib.import_module(f"recipes.cluster.preflight.{self.module}"), self.function, self._instead)

    def _instead(self, *args: object) -> None:
        raise RuntimeError(repr(args[self.first :]))


def die(*_: object) -> None:
    """Kill the calling process with SIGKILL. All arguments are ignored."""
    os.kill(os.getpid(), 9)
