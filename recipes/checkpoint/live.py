"""The tensors of a running run that are saved, under their names in a checkpoint: which of them this rank holds, and their ranges. No
files.

Saved are the student's float32 weights and Adam's moments, and the further kinds of tensor that its objective holds.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from model.parallel import Parallel
from recipes.checkpoint.layout import ParameterEntry, Range
from recipes.engine import shards
from recipes.engine.build import Engine
from recipes.errors import ConfigError


class LiveState(Protocol):
    """What checkpoints save and load. An objective has these attributes and methods (recipes/objectives/base.py)."""

    student: Engine
    parallel: Parallel

    def shards(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the tensors that the objective adds to the student's own: kind -> parameter name -> this rank's shard."""

    def after_load(self) -> None:
        """Make the forward passes use the loaded values. Called after a checkpoint was written into all shards."""

    def restart(self) -> None:
        """Reset what follows the student. Called after only the student's own weights were loaded."""


def entry_of(parameter: nn.Parameter, tp_size: int) -> ParameterEntry:
    """Return what a checkpoint's manifest records about a parameter of the running model: the shape of the whole tensor, the dimension
    along which tp_size tensor-parallel ranks split it (or None), and the number of elements per data-parallel rank."""
    shape, tp_dim = list(parameter.ds_shape), parameter.partition_dim if shards.is_split(parameter) else None
    if tp_dim is not None:
        shape[tp_dim] *= tp_size
    return ParameterEntry(tuple(shape), tp_dim, parameter.ds_tensor.ds_numel)


def entries(live: LiveState) -> dict[str, ParameterEntry]:
    """Return what a checkpoint's manifest records about all parameters: name -> entry, in the model's order."""
    return {name: entry_of(p, live.parallel.tp_size) for name, p in shards.named_parameters(live.student)}


def owned_shards(live: LiveState) -> Iterator[tuple[str, Range, Tensor]]:
    """Yield (name, range, tensor) for each tensor that this rank writes. The name is KIND/PARAMETER, and the range says which elements of
    the parameter the tensor has. The tensor is a flat view of the running state, without padding. A parameter that every tensor-parallel
    rank holds whole is written by tensor-parallel rank 0 only. Of several copies of the model, the first is written."""
    parallel, own_kinds = live.parallel, live.shards()
    if parallel.replica_rank != 0:
        return
    for name, parameter in shards.named_parameters(live.student):
        split = shards.is_split(parameter)
        offset, count = shards.shard_range(parameter)
        if count == 0 or (not split and parallel.tp_rank != 0):
            continue
        tp_dim, tp_size = (parameter.partition_dim, parallel.tp_size) if split else (None, 1)
        place = Range(name, tuple(parameter.ds_shape), tp_dim, parallel.tp_rank, tp_size, offset, count)
        for kind, shard in shards_of(name, parameter, own_kinds):
            yield f"{kind}/{name}", place, shard[:count].detach()


def shards_of(name: str, parameter: nn.Parameter, own_kinds: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield (kind, this rank's shard) of one parameter: first its float32 weights, then Adam's moments (not if it is always frozen), then
    the objective's own kinds. `own_kinds`: kind -> parameter name -> shard. The shards are the running state itself, with padding."""
    weights, *others = weights_of(name, parameter, own_kinds)
    yield weights
    if parameter.requires_grad:
        yield from ((moment, shards.moment_shard(parameter, moment)) for moment in shards.MOMENTS)
    yield from others


def weights_of(name: str, parameter: nn.Parameter, own_kinds: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield what shards_of() yields, without Adam's moments."""
    yield "master", shards.master_shard(parameter)
    yield from ((kind, of_kind[name]) for kind, of_kind in own_kinds.items() if name in of_kind)


def check_same_architecture(
    folder: Any, theirs: dict[str, ParameterEntry], ours: dict[str, ParameterEntry], otherwise: str = "name another --run-dir"
) -> None:
    """Check that a checkpoint's parameters (`theirs`) have the same names and shapes as the model's (`ours`). `folder`: the checkpoint.
    `otherwise`: what the user can do instead of using the checkpoint's recipe.

    Raises: ConfigError that names the first parameter that differs, with both shapes.
    """
    for name in (*ours, *(name for name in theirs if name not in ours)):
        there, here = theirs.get(name), ours.get(name)
        if there is None or here is None or there.shape != here.shape:
            shown = [f"{entry.shape}" if entry else "absent" for entry in (there, here)]
            raise ConfigError(
                f"{folder}: a checkpoint of another architecture: parameter {name} is {shown[0]} in the checkpoint and {shown[1]} in this "
                f"recipe; use its recipe or {otherwise}"
            )
