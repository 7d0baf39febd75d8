"""Reads a checkpoint with any number of ranks. Each rank reads and verifies only the blocks that it needs, one parameter at a time."""

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from recipes.checkpoint.layout import Counters, FileEntry, ParameterEntry, check_files, range_from_json, read_manifest
from recipes.checkpoint.tensor_file import TensorFile
from recipes.errors import ConfigError

OPEN_FILES = 64


class CheckpointReader:
    """Reads tensors of a checkpoint folder by kind (such as `master`, the float32 weights) and parameter, for any number of reading
    ranks."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and check that all files have their sizes. Raises: DamagedCheckpoint if the folder is not a complete
        checkpoint; ConfigError if it has another format version."""
        self.folder, self.manifest = folder, read_manifest(folder)
        check_files(folder, self.manifest)
        self._by_rank = {(file.tp_rank, file.dp_rank): file for file in self.manifest.files}
        self._open = lru_cache(OPEN_FILES)(self._open_file)

    @property
    def counters(self) -> Counters:
        """How far the run had come when it wrote the checkpoint: steps, updates, samples, tokens."""
        return self.manifest.counters

    def names(self, kind: str) -> list[str]:
        """Return the names of the parameters that have a tensor of this kind, such as `master`, in the model's order."""
        keys = {key for file in self.manifest.files if file.dp_rank == 0 for key in self._open(file).metadata}
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
        """Return `count` elements of a parameter, beginning with element number `first` of the reader's flattened slice. `cut` = (i, n):
        tensor parallelism cuts the parameter into n slices for the readers, and the reader has slice i. If the writers did not split the
        parameter, the slice is the whole parameter. Raises: ConfigError if the checkpoint has no such tensor; DamagedCheckpoint,
        OSError."""
        entry = self.entry(name)
        if count == 0:
            return torch.empty(0)
        if entry.tp_dim is None or cut[1] == self.manifest.tp_size:
            return self._interval(kind, name, 0 if entry.tp_dim is None else cut[0], first, first + count)
        return self._recut(kind, name, cut, first, count)

    def _recut(self, kind: str, name: str, cut: tuple[int, int], first: int, count: int) -> Tensor:
        """Return what read() returns, if the writers split the parameter into another number of slices than the readers. The parameter is
        treated as a matrix: its dimensions before the split one are the rows, all others are the columns. Each slice is then a block of
        columns."""
        entry, slices = self.entry(name), self.manifest.tp_size
        assert entry.tp_dim is not None
        columns = prod(entry.shape[entry.tp_dim :])
        ours, theirs = columns // cut[1], columns // slices
        top, bottom = first // ours, -(-(first + count) // ours)
        left, right = (first - top * ours, first - top * ours + count) if bottom - top == 1 else (0, ours)
        out = torch.empty(bottom - top, right - left)
        begin = cut[0] * ours + left  # in columns of the whole tensor
        for number in range(begin // theirs, -(-(begin + right - left) // theirs)):
            start, stop = max(begin, number * theirs), min(begin + right - left, (number + 1) * theirs)
            inside = (start - number * theirs, stop - number * theirs) if bottom - top == 1 else (0, theirs)
            piece = self._interval(kind, name, number, top * theirs + inside[0], (bottom - 1) * theirs + inside[1])
            wanted = start - number * theirs - inside[0]
            out[:, start - begin : stop - begin] = piece.view(bottom - top, -1)[:, wanted : wanted + stop - start]
        return out.view(-1)[first - top * ours - left :][:count]

    def _interval(self, kind: str, name: str, tp_rank: int, first: int, stop: int) -> Tensor:
        """Return elements `first` to `stop` (not included) of the flattened slice that the writers' tensor-parallel rank `tp_rank` held,
        from the files of its data-parallel ranks."""
        key, partition = f"{kind}/{name}", self.entry(name).partition
        out = torch.empty(stop - first)
        for dp_rank in range(first // partition, -(-stop // partition)):
            file = self._open(self._by_rank[tp_rank, dp_rank])
            if key not in file.metadata:
                raise ConfigError(f"{self.folder}: has no {kind} of parameter {name}; it is a checkpoint of another architecture")
            place = range_from_json(file.metadata[key])
            low, high = max(first, place.offset), min(stop, place.offset + place.count)
            for index, values in file.blocks(key, low - place.offset, high - place.offset, place.sha256):
                start, end = max(low, place.offset + index), min(high, place.offset + index + len(values))
                out[start - first : end - first] = values[start - place.offset - index : end - place.offset - index]
        return out

    def _open_file(self, entry: FileEntry) -> TensorFile:
        return TensorFile(self.folder / entry.name, entry.header_sha256)

    def verify(self) -> int:
        """Read all tensors, check all hashes, and return the number of ranges read: one for each tensor in each file. Raises:
        DamagedCheckpoint that names the first damaged one; OSError."""
        return sum(1 for file in self.manifest.files for _ in self._verified(file))

    def _verified(self, entry: FileEntry) -> Iterator[str]:
        file = self._open(entry)
        for key, text in file.metadata.items():
            place = range_from_json(text)
            for _ in file.blocks(key, 0, place.count, place.sha256):
                pass
            yield key
