"""The live state of the engines under the checkpoint's names: which shards this rank holds, and where they lie. No files."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from recipes.checkpoint.layout import KINDS, ParameterEntry, Range
from recipes.engine import shards
from recipes.engine.build import Engines
from recipes.errors import ConfigError


def entry_of(parameter: nn.Parameter, tp_size: int) -> ParameterEntry:
    """The manifest's entry of a live parameter."""
    shape, tp_dim = list(parameter.ds_shape), parameter.partition_dim if shards.is_split(parameter) else None
    if tp_dim is not None:
        shape[tp_dim] *= tp_size
    return ParameterEntry(tuple(shape), tp_dim, parameter.ds_tensor.ds_numel)


def entries(engines: Engines) -> dict[str, ParameterEntry]:
    """All of them, in the model's order."""
    return {name: entry_of(p, engines.parallel.tp_size) for name, p in shards.named_parameters(engines.student)}


def owned_shards(engines: Engines) -> Iterator[tuple[str, Range, Tensor]]:
    """(KIND/PARAMETER, where it lies, unpadded live view) of what this rank writes. Parameters that every tensor-parallel
    rank holds whole are written by rank 0 of each group only."""
    parallel = engines.parallel
    for name, parameter in shards.named_parameters(engines.student):
        split = shards.is_split(parameter)
        offset, count = shards.shard_range(parameter)
        if count == 0 or (not split and parallel.tp_rank != 0):
            continue
        tp_dim, tp_size = (parameter.partition_dim, parallel.tp_size) if split else (None, 1)
        place = Range(name, tuple(parameter.ds_shape), tp_dim, parallel.tp_rank, tp_size, offset, count)
        for kind in KINDS:
            shard = shard_of(engines, name, parameter, kind)
            if shard is not None:
                yield f"{kind}/{name}", place, shard[:count].detach()


def shard_of(engines: Engines, name: str, parameter: Any, kind: str) -> Tensor | None:
    """The live shard of one kind; None where the teacher has no such parameter (the head)."""
    if kind == "master":
        return shards.master_shard(parameter)
    if kind == "shadow":
        return engines.shadow.shadows.get(name)
    return shards.moment_shard(parameter, kind)


def check_same_architecture(folder: Any, theirs: dict[str, ParameterEntry], ours: dict[str, ParameterEntry]) -> None:
    """Raises: ConfigError naming the first parameter in which a checkpoint and the model differ, with both shapes."""
    for name in (*ours, *(name for name in theirs if name not in ours)):
        there, here = theirs.get(name), ours.get(name)
        if there is None or here is None or there.shape != here.shape:
            shown = [f"{entry.shape}" if entry else "absent" for entry in (there, here)]
            raise ConfigError(
                f"{folder}: a checkpoint of another architecture: parameter {name} is {shown[0]} there and {shown[1]} in this recipe; "
                "use its recipe or name another --run-dir"
            )
