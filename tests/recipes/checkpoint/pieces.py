"""Checkpoints of one made-up tensor for tests, as ranks of any topology would write them, without an objective."""

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from recipes.checkpoint import tensor_file
from recipes.checkpoint.layout import Counters, FileEntry, Manifest, ParameterEntry, Range, range_to_json, write_manifest
from recipes.checkpoint.tensor_file import hashes_of, write_tensors

NAME = "layer.weight"
KEY = f"master/{NAME}"


def made_up(shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of this shape with the values 0, 1, 2, ... in the order of its elements."""
    return torch.arange(float(prod(shape))).view(shape)


def shard(full: Tensor, tp_dim: int | None, tp: tuple[int, int], dp: tuple[int, int]) -> tuple[Tensor, int, int]:
    """Return what one rank holds of a tensor under ZeRO-3: (its TP slice, flattened; offset and count of its elements in that). `tp`,
    `dp`: (rank, size)."""
    local = (full if tp_dim is None else full.chunk(tp[1], dim=tp_dim)[tp[0]]).reshape(-1)
    partition = -(-len(local) // dp[1])
    offset = min(len(local), dp[0] * partition)
    return local, offset, min(partition, len(local) - offset)


def write_checkpoint(
    folder: Path, full: Tensor, tp_dim: int | None, tp_size: int, dp_size: int, kinds: tuple[str, ...] = ("master",)
) -> Path:
    """Write the tensor `full` as a complete checkpoint of tp_size x dp_size ranks into `folder`, and return it. `tp_dim`: the dimension
    that is split, or None. `kinds`: under which kinds it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for tp_rank in range(tp_size if tp_dim is not None else 1):
        for dp_rank in range(dp_size):
            local, offset, count = shard(full, tp_dim, (tp_rank, tp_size), (dp_rank, dp_size))
            path = folder / f"rank_{dp_rank * tp_size + tp_rank:05d}.safetensors"
            piece = local[offset : offset + count].clone()
            shape = list(full.shape)
            if tp_dim is not None:
                shape[tp_dim] //= tp_size
            cut = (tp_rank, tp_size) if tp_dim is not None else (0, 1)
            place = Range(NAME, tuple(shape), tp_dim, *cut, offset, count, hashes_of(piece), tensor_file.HASHED_ELEMENTS)
            keys = [f"{kind}/{NAME}" for kind in kinds] if count else []
            header = write_tensors(path, dict.fromkeys(keys, (count,)), [piece] * len(keys), dict.fromkeys(keys, range_to_json(place)))
            files.append(FileEntry(path.name, path.stat().st_size, header, tp_rank, dp_rank))
    entry = ParameterEntry(tuple(full.shape), tp_dim, -(-full.numel() // (tp_size if tp_dim is not None else 1) // dp_size))
    counters = Counters(step=7, update=9, samples=72, tokens=99)
    write_manifest(folder, Manifest(counters, tp_size, dp_size, {NAME: entry}, tuple(files), {}))
    return folder
