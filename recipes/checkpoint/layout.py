"""What a checkpoint folder holds, by name. One value is written once; nothing here reads or writes tensors.

checkpoints/step_00000100/
    state.json                    counters, recipe, versions; the last file written
    rank_00000.safetensors ...    per rank: KIND/PARAMETER -> its flat unpadded range, with the ranges in the header
checkpoints/latest                the name of the newest complete folder
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError

FORMAT = 1
KINDS = ("master", "exp_avg", "exp_avg_sq", "shadow")


@dataclass(frozen=True)
class Range:
    """Where a rank's piece of a parameter lies: `count` elements from `offset` of the flattened tensor-parallel slice
    `tp_rank` of `tp_size`, whose shape is `local_shape`, cut along `tp_dim` (None: not cut)."""

    parameter: str
    local_shape: tuple[int, ...]
    tp_dim: int | None
    tp_rank: int
    tp_size: int
    offset: int
    count: int


@dataclass(frozen=True)
class Counters:
    """Where the run stands, whatever the number of ranks."""

    step: int = 0
    """Optimizer updates applied."""
    update: int = 0
    """Global batches consumed; more than `step` by the skipped ones."""
    samples: int = 0
    tokens: int = 0


def step_folder(run_dir: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def latest(run_dir: Path) -> Path | None:
    """The checkpoint that `latest` names; where that is gone, the newest complete one. None without any."""
    folder = run_dir / "checkpoints"
    complete = sorted(state.parent for state in folder.glob("step_*/state.json"))
    named = folder / (folder / "latest").read_text().strip() if (folder / "latest").exists() else None
    return named if named in complete else next(reversed(complete), None)


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises: ConfigError where it is absent or of another format."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no state.json, so not a complete checkpoint; name a run dir or a folder checkpoints/step_N") from None
    if state.get("format") != FORMAT:
        raise ConfigError(f"{folder}: checkpoint format {state.get('format')}, this version reads {FORMAT}; use the version that wrote it")
    return state


def range_to_json(item: Range) -> str:
    """One header entry."""
    return json.dumps(asdict(item))


def range_from_json(text: str) -> Range:
    """The inverse of range_to_json."""
    values = json.loads(text)
    return Range(**{**values, "local_shape": tuple(values["local_shape"])})


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader sees the old or the new one, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
