"""A live run's state under the checkpoint's names: which shards this rank holds, and where they lie. No files.

What is saved is the student's weights and moments, and the kinds of tensor that its objective holds beside them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from model.parallel import Parallel
from recipes.checkpoint.layout import ParameterEntry, Range
from recipes.engine import shards
from recipes.engine.build import Engine
from recipes.errors import ConfigError


class Live(Protocol):
    """What is saved and loaded; recipes/objectives/base.py says what its methods do."""

    student: Engine
    parallel: Parallel

    def shards(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Kind -> parameter -> shard."""

    def after_load(self) -> None:
        """Every shard was written."""


def entry_of(parameter: nn.Parameter, tp_size: int) -> ParameterEntry:
    """The manifest's entry of a live parameter."""
    shape, tp_dim = list(parameter.ds_shape), parameter.partition_dim if shards.is_split(parameter) else None
    if tp_dim is not None:
        shape[tp_dim] *= tp_size
    return ParameterEntry(tuple(shape), tp_dim, parameter.ds_tensor.ds_numel)


def entries(live: Live) -> dict[str, ParameterEntry]:
    """All of them, in the model's order."""
    return {name: entry_of(p, live.parallel.tp_size) for name, p in shards.named_parameters(live.student)}


def owned_shards(live: Live) -> Iterator[tuple[str, Range, Tensor]]:
    """(KIND/PARAMETER, where it lies, unpadded live view) of what this rank writes. Parameters that every tensor-parallel
    rank holds whole are written by rank 0 of each group only."""
    parallel, beside = live.parallel, live.shards()
    for name, parameter in shards.named_parameters(live.student):
        split = shards.is_split(parameter)
        offset, count = shards.shard_range(parameter)
        if count == 0 or (not split and parallel.tp_rank != 0):
            continue
        tp_dim, tp_size = (parameter.partition_dim, parallel.tp_size) if split else (None, 1)
        place = Range(name, tuple(parameter.ds_shape), tp_dim, parallel.tp_rank, tp_size, offset, count)
        for kind, shard in shards_of(name, parameter, beside):
            yield f"{kind}/{name}", place, shard[:count].detach()


def shards_of(name: str, parameter: nn.Parameter, beside: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """(kind, live shard) of one parameter, padded; `beside` are the objective's kinds. One that is frozen for ever has no moments."""
    yield "master", shards.master_shard(parameter)
    if parameter.requires_grad:
        yield from ((moment, shards.moment_shard(parameter, moment)) for moment in shards.MOMENTS)
    yield from ((kind, of_kind[name]) for kind, of_kind in beside.items() if name in of_kind)


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
