"""Writes a checkpoint from whole tensors on one process, without engines: the first checkpoint of a run whose weights come from elsewhere.
A run reads it with any number of ranks."""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recipes.checkpoint.layout import Counters, FileEntry, Manifest, ParameterEntry, Range, range_to_json, step_folder, write_manifest
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS, hashes_of, write_tensors
from recipes.engine import shards
from recipes.system.durable import write_text_atomically

Values = Mapping[str, Mapping[str, Callable[[], Tensor]]]
"""Kind of tensor, such as `master` -> name of a parameter -> function that returns the whole float32 tensor."""


def write_whole(run_dir: Path, entries: Mapping[str, ParameterEntry], values: Values, metadata: dict[str, Any]) -> Path:
    """Write the checkpoint of step 0 into `run_dir`, and return its folder.

    `entries`: shapes of the parameters of the network that is trained, in its order, and the dimensions along which tensor parallelism
    splits them. `values`: what is written. Each function is called twice, for the hashes and for the file, so that one
    tensor is in memory at a time. Raises: OSError.
    """
    folder = step_folder(run_dir, 0)
    folder.mkdir(parents=True)
    functions = {f"{kind}/{name}": of_kind[name] for name in entries for kind, of_kind in values.items() if name in of_kind}
    places = {key: _range_of(key.partition("/")[2], entries) for key in functions}
    metadata_of_file = {key: range_to_json(_with_hashes(place, functions[key]())) for key, place in places.items()}
    path = folder / "rank_00000.safetensors"
    shapes = {key: (place.count,) for key, place in places.items()}
    header_sha256 = write_tensors(path, shapes, _flat(functions), metadata_of_file)
    file = FileEntry(path.name, path.stat().st_size, header_sha256, tp_rank=0, dp_rank=0)
    write_manifest(folder, Manifest(Counters(), 1, 1, dict(entries), (file,), metadata))
    write_text_atomically(folder.parent / "latest", folder.name + "\n")
    return folder


def entry_of(parameter: nn.Parameter) -> ParameterEntry:
    """Return what the manifest records about a parameter that is whole."""
    tp_dim = parameter.partition_dim if shards.is_split(parameter) else None
    return ParameterEntry(tuple(parameter.shape), tp_dim, parameter.numel())


def _range_of(name: str, entries: Mapping[str, ParameterEntry]) -> Range:
    entry = entries[name]
    return Range(name, entry.shape, entry.tp_dim, tp_rank=0, tp_size=1, offset=0, count=prod(entry.shape))


def _with_hashes(place: Range, tensor: Tensor) -> Range:
    assert tuple(tensor.shape) == place.local_shape, (place.parameter, tensor.shape)
    return place.with_hashes(hashes_of(tensor.detach().reshape(-1)), HASHED_ELEMENTS)


def _flat(functions: Mapping[str, Callable[[], Tensor]]) -> Iterator[Tensor]:
    return (function().detach().reshape(-1) for function in functions.values())
