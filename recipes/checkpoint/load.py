"""Reads a checkpoint at any number of ranks: whole tensors one at a time, of which each rank keeps its part."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from recipes.checkpoint.layout import KINDS, Counters, Range, range_from_json, read_state
from recipes.checkpoint.save import shard_of
from recipes.errors import ConfigError
from recipes.train import shards
from recipes.train.engine import Engines


class CheckpointReader:
    """The tensors of a checkpoint folder by kind and parameter, put together from the ranks' ranges."""

    def __init__(self, folder: Path) -> None:
        """Raises: ConfigError where the folder is not a complete checkpoint of this format."""
        self.folder = folder
        self.state = read_state(folder)
        self._pieces: dict[str, list[tuple[Path, Range]]] = {}
        for path in sorted(folder.glob("rank_*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for key, text in (file.metadata() or {}).items():
                    self._pieces.setdefault(key, []).append((path, range_from_json(text)))

    @property
    def counters(self) -> Counters:
        """Where the run stood."""
        return Counters(**self.state["counters"])

    def names(self, kind: str) -> list[str]:
        """Parameters that have a tensor of this kind."""
        return [key.removeprefix(f"{kind}/") for key in self._pieces if key.startswith(f"{kind}/")]

    def whole(self, kind: str, name: str) -> Tensor:
        """One whole tensor. Raises: ConfigError where pieces of it are missing."""
        pieces = self._pieces.get(f"{kind}/{name}")
        if not pieces:
            raise ConfigError(f"{self.folder}: has no {kind} of parameter {name}; it is a checkpoint of another architecture")
        first = pieces[0][1]
        slices = [torch.empty(first.local_shape) for _ in range(first.tp_size)]
        filled = 0
        for path, place in pieces:
            with safe_open(path, framework="pt") as file:
                slices[place.tp_rank].view(-1)[place.offset : place.offset + place.count] = file.get_tensor(f"{kind}/{name}")
            filled += place.count
        expected = sum(s.numel() for s in slices)
        if filled != expected:
            raise ConfigError(f"{self.folder}: {kind}/{name} has {filled} of {expected} values; files of some ranks are missing")
        return slices[0] if first.tp_dim is None else torch.cat(slices, dim=first.tp_dim)


def load_checkpoint(folder: Path, engines: Engines) -> Counters:
    """Write a checkpoint into live engines, whatever number of ranks wrote it. No collective but the renewal of
    persistent parameters. Raises: ConfigError for another architecture."""
    reader = CheckpointReader(folder)
    for name, parameter in shards.named_parameters(engines.student):
        for kind in KINDS:
            shard = shard_of(engines, name, parameter, kind)
            if shard is not None:
                shards.scatter_full(parameter, reader.whole(kind, name), engines.parallel, shard)
    shards.set_optimizer_step(engines.student, reader.counters.step)
    shards.refresh_compute_weights(engines.student)
    engines.shadow.publish()
    return reader.counters
