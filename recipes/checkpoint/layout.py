"""Names and small files of a checkpoint folder, and which folder is the newest. Each value is stored once. Nothing here reads or writes
tensors.

checkpoints/step_00000100/
    rank_00000.safetensors ...    per rank: KIND/PARAMETER -> its flat unpadded range; the header has the range's place and hashes
    manifest.json                 counters, parameters, files with their sizes and header hashes, recipe, versions; the last file written
checkpoints/latest                the name of the newest complete folder
checkpoints/best                  the name of that of the best evaluation, if the recipe names a metric for it

KIND is `master` (float32 weights), a moment of Adam, or a kind of the objective.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.system.durable import write_text_atomically

FORMAT = 3
"""The format that is written."""
READABLE = (2, 3)
"""Formats that can be read. In format 2 every hash covers HASHED_ELEMENTS_OF_FORMAT_2 elements, and no file says so."""
READS = " and ".join(map(str, READABLE))
HASHED_ELEMENTS_OF_FORMAT_2 = 4 * 1024**2
MANIFEST = "manifest.json"
PREFIX = "step_"
BEST = "best"


@dataclass(frozen=True)
class Range:
    """The elements of one parameter that one rank has written. Tensor parallelism cuts the parameter along dimension `tp_dim` into
    `tp_size` slices (None: one slice, the whole parameter). The rank has written `count` elements of slice number `tp_rank`, beginning with
    element number `offset` of the flattened slice. `local_shape` is the shape of the slice."""

    parameter: str
    local_shape: tuple[int, ...]
    tp_dim: int | None
    tp_rank: int
    tp_size: int
    offset: int
    count: int
    sha256: tuple[str, ...] = ()
    """One hash for each `hashed_elements` elements of the range, in order."""
    hashed_elements: int = HASHED_ELEMENTS_OF_FORMAT_2

    def with_hashes(self, sha256: tuple[str, ...], hashed_elements: int) -> "Range":
        """Return the range with the hashes of its elements, one for each `hashed_elements`."""
        return replace(self, sha256=sha256, hashed_elements=hashed_elements)


@dataclass(frozen=True)
class Counters:
    """How far a run has come. The numbers are the same for any number of ranks."""

    step: int = 0
    """Optimizer updates applied."""
    update: int = 0
    """Global batches consumed: `step` plus the skipped updates."""
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class ParameterEntry:
    """What the manifest records about one parameter: its shape, and how the ranks that wrote the checkpoint had split it."""

    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    tp_dim: int | None
    """Dimension along which the tensor-parallel ranks split it; None if each rank held the whole tensor."""
    partition: int
    """Elements of a flattened slice that each data-parallel rank held; the last ranks may have held fewer or none."""


@dataclass(frozen=True)
class FileEntry:
    """What the manifest records about the file that one rank has written: name, size, and hash of its header."""

    name: str
    bytes: int
    header_sha256: str
    tp_rank: int
    dp_rank: int


@dataclass(frozen=True)
class Manifest:
    """Content of a checkpoint's manifest.json. `metadata`: recipe, versions, data_fingerprint and small states that are not tensors."""

    counters: Counters
    tp_size: int
    dp_size: int
    parameters: dict[str, ParameterEntry]
    files: tuple[FileEntry, ...]
    metadata: dict[str, Any]

    def num_bytes(self) -> int:
        """Return the size in bytes of all tensor files together."""
        return sum(file.bytes for file in self.files)


def best_folder(run_dir: Path) -> Path | None:
    """Return the checkpoint of the run's best evaluation, which the file checkpoints/best names; None if there is none."""
    try:
        folder = run_dir / "checkpoints" / (run_dir / "checkpoints" / BEST).read_text().strip()
    except OSError:
        return None
    return folder if (folder / MANIFEST).is_file() else None


def name_best(run_dir: Path, step: int) -> None:
    """Name the checkpoint after `step` updates in the file checkpoints/best, unless it is named there or is not complete."""
    folder = step_folder(run_dir, step)
    if (folder / MANIFEST).is_file() and best_folder(run_dir) != folder:
        write_text_atomically(folder.parent / BEST, folder.name + "\n")


def step_folder(run_dir: Path, step: int) -> Path:
    """Return the path of the checkpoint folder after `step` optimizer updates, such as checkpoints/step_00000100 of the run dir."""
    return run_dir / "checkpoints" / f"{PREFIX}{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step number in the name of a checkpoint folder: 100 for step_00000100."""
    return int(folder.name.removeprefix(PREFIX))


def candidates(run_dir: Path) -> list[Path]:
    """Return the checkpoint folders that may be loaded, sorted by step, newest first: the one that the file `latest` names and all older
    ones. If `latest` does not name one of them, return all. Whether they can be read is not checked."""
    folder = run_dir / "checkpoints"
    found = sorted((p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit() and p.is_dir()), key=step_of)
    found.reverse()
    named = _named(folder)
    return [path for path in found if step_of(path) <= step_of(named)] if named in found else found


def _named(folder: Path) -> Path | None:
    try:
        return folder / (folder / "latest").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def newest(run_dir: Path) -> Path | None:
    """Return the newest checkpoint folder whose manifest and file sizes are right; None if there is none. Tensors are not read."""
    for folder in candidates(run_dir):
        try:
            check_files(folder, read_manifest(folder))
        except DamagedCheckpoint:
            continue
        return folder
    return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json into a checkpoint folder, with a hash of its own content. The file is complete or absent."""
    content = asdict(manifest)
    content["facts"] = content.pop("metadata")  # the key of the formats
    write_text_atomically(folder / MANIFEST, _text({"format": FORMAT, **content}))


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of a checkpoint folder and check its hash.

    Raises: DamagedCheckpoint if it does not exist or is not as it was written; ConfigError if it has another format version.
    """
    if not (folder / MANIFEST).exists() and (folder / "state.json").exists():
        raise ConfigError(f"{folder}: checkpoint format 1, this version reads {READS}; use the version that wrote it")
    try:
        text = (folder / MANIFEST).read_text()
        content = json.loads(text)
        stored_hash = content.pop("sha256")
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{folder}: no {MANIFEST}, so not a complete checkpoint; use an older one") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder}: {MANIFEST} cannot be read ({error}); use an older one") from None
    if _hash(content) != stored_hash:
        raise DamagedCheckpoint(f"{folder}: {MANIFEST} is not as it was written (its hash differs); use an older one")
    if content.get("format") not in READABLE:
        newer = isinstance(content.get("format"), int) and content["format"] > FORMAT
        remedy = "a newer release wrote it: update this one" if newer else "use the version that wrote it"
        raise ConfigError(f"{folder}: checkpoint format {content.get('format')}, this version reads {READS}; {remedy}")
    if text != _text(content):
        raise DamagedCheckpoint(f"{folder}: {MANIFEST} is not as it was written; use an older one")
    return _manifest(content)


def _manifest(content: dict[str, Any]) -> Manifest:
    return Manifest(
        Counters(**content["counters"]),
        content["tp_size"],
        content["dp_size"],
        {n: ParameterEntry(tuple(e["shape"]), e["tp_dim"], e["partition"]) for n, e in content["parameters"].items()},
        tuple(FileEntry(**entry) for entry in content["files"]),
        content["facts"],
    )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that all tensor files exist and have their recorded sizes. Raises: DamagedCheckpoint that names the first file that is missing
    or has another size."""
    for file in manifest.files:
        path = folder / file.name
        size = path.stat().st_size if path.exists() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"has {size} of {file.bytes} bytes"
            raise DamagedCheckpoint(f"{folder}: {file.name} {found}; use an older one")


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content | {"sha256": _hash(content)}, indent=1) + "\n"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def range_to_json(item: Range) -> str:
    """Return a range as JSON text, for the header of a tensor file."""
    return json.dumps({field.name: getattr(item, field.name) for field in fields(Range)})


def range_from_json(text: str) -> Range:
    """Return the range that `text` describes, in the JSON format that range_to_json() writes."""
    values = json.loads(text)
    return Range(**{**values, "local_shape": tuple(values["local_shape"]), "sha256": tuple(values["sha256"])})
