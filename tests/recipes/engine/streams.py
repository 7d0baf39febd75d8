"""A recording stream in place of the stream on which DeepSpeed gathers, since a CPU has no streams. benchmarks/accelerator_check.py tests a
real stream."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor


def waits_after(engines: Mapping[str, Any], writers: Mapping[str, Callable[[], object]]) -> dict[str, list[tuple[str, str, bool]]]:
    """Run each function that writes shards. Return by its name: the engines whose gathers it made wait, for which stream, and whether all
    shards were written by then. Changes this process permanently."""
    from recipes.engine import shards

    assert [shards.gather_stream(engine) for engine in engines.values()] == [None] * len(engines), "a CPU has no streams"
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
