"""Checkpoints of a made-up model for tests, written by any topology: several parameters, student and teacher, and a recipe."""

from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.checkpoint.layout import Counters, FileEntry, Manifest, ParameterEntry, Range, range_to_json, write_manifest
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS, hashes_of, write_tensors
from tests.recipes.checkpoint.pieces import made_up, shard

TABLE = "trunk.frontend.tokens.weight"
VOCAB_SIZE = 5
SPLIT: dict[str, tuple[tuple[int, ...], int | None]] = {
    TABLE: ((8, 4), 0),
    "trunk.norm.weight": ((4,), None),
    "trunk.blocks.0.out.weight": ((4, 8), 1),
    "head.weight": ((4, 4), None),
}
"""Name of a parameter -> its shape, and the dimension that is split over TP ranks (None: not split)."""
FACTS: dict[str, Any] = {
    "recipe": {
        "name": "text_tiny",
        "modality": "text",
        "model": {"num_layers": 1, "hidden_size": 4, "dropout": 0.1},
        "frontend": {"vocab_size": VOCAB_SIZE},
        "run": {"global_batch_size": 8},
    },
    "versions": {"torch": "2.13.0"},
    "python": "3.11.2",
    "git_commit": "0123456789abcdef",
    "data_fingerprint": "feed",
    "time": 1_700_000_000.0,
}


def whole_tensors() -> dict[str, Tensor]:
    """Return the made-up state: KIND/PARAMETER -> whole tensor, all values different. The EMA weights ("shadow") have no head."""
    kinds = ("master", "exp_avg", "exp_avg_sq", "shadow")
    keys = [f"{kind}/{name}" for kind in kinds for name in SPLIT if kind != "shadow" or not name.startswith("head.")]
    return {key: 1000.0 * number + made_up(SPLIT[key.partition("/")[2]][0]) for number, key in enumerate(keys)}


def write_model(folder: Path, tp_size: int = 1, dp_size: int = 1, facts: dict[str, Any] | None = None) -> Path:
    """Write the tensors of whole_tensors() as a complete checkpoint of tp_size x dp_size ranks into `folder`, and return it. `facts`:
    those of the manifest."""
    folder.mkdir(parents=True)
    files = [_write_file(folder, (tp, tp_size), (dp, dp_size)) for dp in range(dp_size) for tp in range(tp_size)]
    parameters = {
        name: ParameterEntry(shape, tp_dim, -(-prod(shape) // (1 if tp_dim is None else tp_size) // dp_size))
        for name, (shape, tp_dim) in SPLIT.items()
    }
    counters = Counters(step=7, update=9, samples=72, tokens=1999)
    write_manifest(folder, Manifest(counters, tp_size, dp_size, parameters, tuple(files), FACTS if facts is None else facts))
    return folder


def _write_file(folder: Path, tp: tuple[int, int], dp: tuple[int, int]) -> FileEntry:
    pieces, places = {}, {}
    for key, full in whole_tensors().items():
        name = key.partition("/")[2]
        tp_dim = SPLIT[name][1]
        cut = (0, 1) if tp_dim is None else tp
        local, offset, count = shard(full, tp_dim, cut, dp)
        if count == 0 or (tp_dim is None and tp[0] > 0):
            continue
        shape = tuple(size // cut[1] if dim == tp_dim else size for dim, size in enumerate(full.shape))
        pieces[key] = local[offset : offset + count].clone()
        places[key] = range_to_json(Range(name, shape, tp_dim, *cut, offset, count, hashes_of(pieces[key]), HASHED_ELEMENTS))
    path = folder / f"rank_{dp[0] * tp[1] + tp[0]:05d}.safetensors"
    header = write_tensors(path, {key: tuple(piece.shape) for key, piece in pieces.items()}, pieces.values(), places)
    return FileEntry(path.name, path.stat().st_size, header, tp[0], dp[0])
