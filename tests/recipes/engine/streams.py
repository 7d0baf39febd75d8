"""A stream that takes notes, in place of the one on which DeepSpeed gathers: a CPU has none. benchmarks/accelerator_check.py asks a real
one."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor


def waits_after(engines: Mapping[str, Any], writers: Mapping[str, Callable[[], object]]) -> dict[str, list[tuple[str, str, bool]]]:
    """For each writer of shards: the engines whose gathers it made wait, for which stream, and whether all was written by then. Changes
    this process for good."""
    from recipes.engine import shards

    assert [shards.gather_stream(engine) for engine in engines.values()] == [None] * len(engines), "a CPU has none"
    waits: list[tuple[str, str, list[Tensor]]] = []

    def held(name: str) -> list[Tensor]:
        return [shards.compute_shard(parameter).clone() for _, parameter in shards.named_parameters(engines[name])]

    for name, engine in engines.items():
        offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
        stream = SimpleNamespace(wait_stream=lambda other, name=name: waits.append((name, other, held(name))))
        offload._DeepSpeedZeRoOffload__allgather_stream = stream
    shards.get_accelerator = lambda: SimpleNamespace(current_stream=lambda: "current")  # type: ignore[assignment]
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for writer, write in writers.items():
        waits.clear()
        write()
        found[writer] = [(name, other, all(map(Tensor.equal, seen, held(name)))) for name, other, seen in waits]
    return found
