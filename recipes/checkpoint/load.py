"""Reads a checkpoint with any number of ranks. Each rank opens only the files that hold something of its own, one after the other, and
reads and verifies only the blocks that it needs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.slices import FlatRange, copy_common
from recipes.checkpoint.layout import Counters, FileEntry, ParameterEntry, check_files, range_from_json, read_manifest
from recipes.checkpoint.tensor_file import TensorFile
from recipes.errors import ConfigError

OPEN_FILES = 64


@dataclass(frozen=True)
class Wanted:
    """What a rank reads of one tensor: the elements of `out`, which is flat and contiguous, from element number `first` of the rank's
    flattened slice on. `cut` = (i, n): tensor parallelism cuts the parameter into n slices for the readers, and the rank has slice i. If
    the writers did not split the parameter, the slice is the whole parameter."""

    kind: str
    """Kind of tensor, such as `master`, the float32 weights."""
    name: str
    """Name of the parameter."""
    cut: tuple[int, int]
    first: int
    out: Tensor


class CheckpointReader:
    """Reads tensors of a checkpoint folder by kind (such as `master`, the float32 weights) and parameter, for any number of reading
    ranks."""

    def __init__(self, folder: Path, *, is_checked: bool = False) -> None:
        """Read the manifest, and check that all files have their sizes. `is_checked`: another rank has checked the files. Raises:
        DamagedCheckpoint if the folder is not a complete checkpoint; ConfigError if it has another format version."""
        self.folder, self.manifest = folder, read_manifest(folder)
        if not is_checked:
            check_files(folder, self.manifest)
        self._by_rank = {(file.tp_rank, file.dp_rank): file for file in self.manifest.files}
        self._kept = lru_cache(OPEN_FILES)(partial(_open, folder))

    @property
    def counters(self) -> Counters:
        """How far the run had come when it wrote the checkpoint: steps, updates, samples, tokens."""
        return self.manifest.counters

    def names(self, kind: str) -> list[str]:
        """Return the names of the parameters that have a tensor of this kind, such as `master`, in the model's order."""
        keys = {key for file in self.manifest.files if file.dp_rank == 0 for key in self._kept(file).metadata}
        return [name for name in self.manifest.parameters if f"{kind}/{name}" in keys]

    def whole(self, kind: str, name: str) -> Tensor:
        """Return a parameter's whole tensor of this kind, verified. Raises: ConfigError if the checkpoint has none; DamagedCheckpoint,
        OSError."""
        entry = self.entry(name)
        return self.read(kind, name, (0, 1), 0, prod(entry.shape)).view(entry.shape)

    def entry(self, name: str) -> ParameterEntry:
        """Return a parameter's whole shape and how it is split. Raises: ConfigError if the checkpoint has no such parameter."""
        if name not in self.manifest.parameters:
            raise ConfigError(f"{self.folder}: has no parameter {name}; it is a checkpoint of another architecture")
        return self.manifest.parameters[name]

    def read(self, kind: str, name: str, cut: tuple[int, int], first: int, count: int) -> Tensor:
        """Return `count` elements of one tensor, beginning with element number `first` of the reader's flattened slice. `cut`: as in
        Wanted. Raises: ConfigError if the checkpoint has no such tensor; DamagedCheckpoint, OSError."""
        wanted = Wanted(kind, name, cut, first, torch.empty(count))
        for writer, held in self._holders(wanted):
            self._copy(self._kept(self._by_rank[writer]), held, wanted)
        return wanted.out

    def load(self, parts: Iterable[Wanted], alive: Callable[[], Any] = lambda: None) -> None:
        """Read all tensors of `parts`. Each file that holds elements of them is opened once, and no other file is. `alive` is called
        before each range of a file is read. Raises: ConfigError if the checkpoint has no such tensor; DamagedCheckpoint, OSError."""
        by_file: dict[tuple[int, int], list[tuple[FlatRange, Wanted]]] = {}
        for wanted in parts:
            for writer, held in self._holders(wanted):
                by_file.setdefault(writer, []).append((held, wanted))
        for writer, ranges in by_file.items():
            file = _open(self.folder, self._by_rank[writer])
            for held, wanted in ranges:
                alive()
                self._copy(file, held, wanted)

    def _holders(self, wanted: Wanted) -> Iterator[tuple[tuple[int, int], FlatRange]]:
        """Yield ((tensor-parallel rank, data-parallel rank) of the writer, the range in its file) for each file with elements of
        `wanted`."""
        entry, target = self.entry(wanted.name), self._target(wanted)
        num_slices = 1 if entry.tp_dim is None else self.manifest.tp_size
        size, columns = prod(entry.shape) // num_slices, self._columns(entry) // num_slices
        for tp_rank in range(num_slices):
            first, stop = FlatRange(tp_rank, columns, 0, size).needed_by(target) or (0, 0)
            for dp_rank in range(first // entry.partition, -(-stop // entry.partition)):
                held = FlatRange(tp_rank, columns, dp_rank * entry.partition, (dp_rank + 1) * entry.partition)
                if held.needed_by(target):
                    yield (tp_rank, dp_rank), held

    def _target(self, wanted: Wanted) -> FlatRange:
        entry = self.entry(wanted.name)
        number, num_slices = (0, 1) if entry.tp_dim is None else wanted.cut
        return FlatRange(number, self._columns(entry) // num_slices, wanted.first, wanted.first + wanted.out.numel())

    def _columns(self, entry: ParameterEntry) -> int:
        return prod(entry.shape[entry.tp_dim or 0 :])

    def _copy(self, file: TensorFile, held: FlatRange, wanted: Wanted) -> None:
        """Copy from a file what `wanted` has of the range `held`."""
        key, target = f"{wanted.kind}/{wanted.name}", self._target(wanted)
        if key not in file.metadata:
            raise ConfigError(f"{self.folder}: has no {wanted.kind} of parameter {wanted.name}; it is a checkpoint of another architecture")
        hashes, needed = range_from_json(file.metadata[key]), held.needed_by(target)
        assert needed is not None
        first, stop = (element - held.first for element in needed)
        for index, values in file.blocks(key, first, stop, hashes.sha256, hashes.hashed_elements):
            begin = held.first + index
            copy_common(replace(held, first=begin, stop=begin + len(values)), values, target, wanted.out)

    def verify(self) -> int:
        """Read all tensors, check all hashes, and return the number of ranges read: one for each tensor in each file. Raises:
        DamagedCheckpoint that names the first damaged one; OSError."""
        return sum(1 for file in self.manifest.files for _ in self._verified(file))

    def _verified(self, entry: FileEntry) -> Iterator[str]:
        file = _open(self.folder, entry)
        for key, text in file.metadata.items():
            place = range_from_json(text)
            for _ in file.blocks(key, 0, place.count, place.sha256, place.hashed_elements):
                pass
            yield key


def _open(folder: Path, entry: FileEntry) -> TensorFile:
    return TensorFile(folder / entry.name, entry.header_sha256)
