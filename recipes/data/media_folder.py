"""Raw recordings or images -> prepared folder: a list of items, their lengths, and which are held out. Bytes stay in their file or are
copied without change (media_items.py). No decoded data are stored.

    prepared.json          source, settings and counts (class Info)
    lengths.bin            int64 per item, 0 for bad items
    train.bin, valid.bin   int64 numbers of the items, sorted by (length, number)
    bad.json               location and reason of every item that could not be read

Shapes: N items of the source, K items of a split.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.data import shards
from recipes.data.contents import Record, ResumedRun, compare_contents, record_files, save_digests
from recipes.data.media import BadItem, Files, Media, MediaKind, allowed_bad, format_bad_items
from recipes.data.media_items import SEGMENTS_FILE, ItemsLocation, open_items, save_items
from recipes.data.media_source import open_media
from recipes.data.media_table import Table
from recipes.data.progress import ByteProgress
from recipes.data.scanning import Scan, Scanned, scan_items, split_items
from recipes.data_config import SpeechDataConfig, VisionDataConfig
from recipes.errors import ConfigError, DataMismatch
from recipes.system.atomic_folder import atomic_folder

FORMAT_VERSION = 1
SPLITS = ("train", "valid")
Log = Callable[[str], None]


@dataclass(frozen=True)
class Info:
    """Content of prepared.json in a prepared folder of recordings or images."""

    version: int
    kind: str  # audio or image
    source: str
    """Media.name: the data that the items come from."""
    column: str
    place: ItemsLocation
    fingerprint: str
    counts: dict[str, int]
    """Number of items: items (all of them), bad, short, train, valid. A run uses only train and valid."""
    settings: dict[str, Any]
    """Dotted name -> value of each setting that the choice of items depends on."""
    split: str | None = None
    """The value of data.split with which the folder was made."""
    contents: Record | None = None
    """Record of the contents of the items' files, or of the files of their table."""


@dataclass(frozen=True)
class PreparedMedia:
    """An open prepared folder of recordings or images. Pickled as the folder's path alone."""

    folder: Path
    media: Media
    lengths_N: np.ndarray
    splits: dict[str, np.ndarray]
    """train and valid -> numbers of their items (K,)."""
    fingerprint: str
    counts: dict[str, int]
    bad: list[BadItem]

    def __reduce__(self) -> tuple[Callable[[Path], "PreparedMedia"], tuple[Path]]:
        return open_prepared, (self.folder,)


def prepare_media(
    data: SpeechDataConfig | VisionDataConfig,
    kind: MediaKind,
    out_dir: Path,
    *,
    scan: Scan | None,
    settings: dict[str, Any],
    min_length: int = 0,
    if_all_short: Callable[[int, int], str] = lambda shortest, longest: "point --data at something else",
    num_processes: int | None = None,
    progress: bool = False,
    log: Log = lambda line: None,
    run: ResumedRun | None = None,
) -> Path:
    """Return the prepared folder for `data`: the folder that data.path names, an earlier one at out_dir, or a new one at out_dir.

    `scan` returns an item's length from its header. With None no header is read, and each length is 1. Bad items and items shorter than
    min_length are left out. If all items are too short, if_all_short(shortest, longest length in samples) returns the remedy for the
    message. An existing folder must have the same `settings`. Files that the earlier starts of `run` could not decode may have changed.
    num_processes None: the cores that this process may use. The result does not depend on it. out_dir appears complete or not at all. Call
    it on one rank only, in a script with `if __name__ == "__main__"`, since it spawns processes.

    Raises: ConfigError for everything that the user can fix; DataMismatch if an existing folder was prepared from other data or settings.
    """
    settings = {"data.heldout_fraction": data.heldout_fraction, **settings}
    found = shards.find_prepared(
        data.path,
        out_dir,
        check_fits=lambda folder: _check_fits(folder, kind, settings),
        check_same_source=lambda folder: _check_same_source(folder, data, kind),
    )
    if found is not None:
        _check_contents(found, data.max_bad_fraction, run or ResumedRun(), log)
        return found
    media = _open_source(data, kind, log)
    with atomic_folder(out_dir) as folder:
        location = save_items(media, folder)
        bar = ByteProgress("scanning", 0, show_bar=progress, log=log)
        scanned = scan_items(
            folder,
            media.name,
            location,
            scan=scan,
            num_items=len(media),
            num_processes=num_processes or len(os.sched_getaffinity(0)),
            progress=bar,
        )
        bar.close()
        _check_bad(media, scanned.bad, len(media), data.max_bad_fraction)
        _check_any_usable(media.name, scanned, min_length, if_all_short)
        counts = _write_index(folder, scanned, min_length=min_length, heldout_fraction=data.heldout_fraction)
        record = _record_contents(folder, media, scanned)
        info = Info(FORMAT_VERSION, kind.name, media.name, data.column, location, scanned.fingerprint, counts, settings, data.split, record)
        shards.save_prepared(folder, info)
        _log_counts(log, kind, info, scanned.bad, min_length)
    return out_dir


def _open_source(data: SpeechDataConfig | VisionDataConfig, kind: MediaKind, log: Log) -> Media:
    """Open the items that `data` names, and log which of them are read and which columns give the times of segments."""
    media = open_media(data.path, kind, column=data.column, split=data.split)
    if media.note:
        log(media.note)
    if isinstance(media, Files):
        _check_column(media, data)
        if media.segment_columns:
            log(f"{media.name}: items are segments of its files, by the columns {', '.join(media.segment_columns)} in seconds")
    return media


def _record_contents(folder: Path, media: Media, scanned: Scanned) -> Record | None:
    """Write digests of the source files for later comparison. Return their root folder and the digests' hash, or None without files."""
    if isinstance(media, Files):
        return save_digests(folder, media.root, scanned.digests)
    assert isinstance(media, Table)
    return record_files(folder, media.files)


def _check_column(media: Files, data: SpeechDataConfig | VisionDataConfig) -> None:
    """Check data.column. Raises: ConfigError if the user named a column that the files' list lacks. The default column may be missing."""
    if data.column in (type(data).column, *media.columns):
        return
    if not media.columns:
        raise ConfigError(
            f"{media.name}: data.column {data.column!r} has no effect, as files have no columns; leave it out or give a table"
        )
    raise ConfigError(f"{media.name}: no column {data.column!r}, there are {', '.join(media.columns)}; --set data.column=NAME")


def _check_fits(folder: Path, kind: MediaKind, settings: dict[str, Any]) -> None:
    """Check that a run can use the prepared folder. A setting that is not in it, because an older release made it, is not compared.
    Raises: ConfigError if the folder is damaged; DataMismatch if it was made from another kind of data or with other settings."""
    open_prepared(folder)
    info = _load_info(folder)
    if info.kind != kind.name:
        raise DataMismatch(f"{folder}: prepared from {info.kind} data, not from {kind.name}; point --data at {kind.name} data")
    for name, value in settings.items():
        made_with = info.settings.get(name, value)
        if made_with != value:
            raise DataMismatch(
                f"{folder}: prepared with {name} {made_with}, the recipe has {value}; --set {name}={made_with} or prepare it again"
            )


def _check_contents(folder: Path, max_bad_fraction: float, run: ResumedRun, log: Log) -> None:
    """Compare the source files with the folder's record, and log and report the differences. Files that `run` could not decode may differ.
    Raises: DataMismatch if more other files differ than items may be bad (damage to single files causes both), or if any file of a table
    differs. Files of a table may be missing, because its rows are copied."""
    changes, is_files = compare_contents(folder, run.bad), "root" in _load_info(folder).place
    allowed = allowed_bad(changes.num_files, max_bad_fraction) if is_files else 0
    if len(changes.changed) * changes.num_files > allowed * changes.num_compared:
        raise DataMismatch(f"{folder}: {changes}; remove it and prepare it again")
    changes = changes if is_files else changes._replace(missing=())
    for note in changes.notes():
        log(f"warning: {folder}: {note}")
    if changes.changed or changes.fixed or changes.missing:
        run.report(changes)


def _check_same_source(folder: Path, data: SpeechDataConfig | VisionDataConfig, kind: MediaKind) -> None:
    """Check where a prepared folder is from. Raises: DataMismatch if it was made with another data.path, data.column or data.split."""
    info = _load_info(folder)
    asked = kind.sample if data.path is None else Path(data.path).expanduser()
    if info.source not in (str(data.path), str(asked.resolve())):
        raise DataMismatch(f"{folder}: prepared from {info.source}, now --data {data.path}; remove it or choose another place")
    for name, then, now in (("column", info.column, data.column), ("split", info.split, data.split)):
        if then != now:
            raise DataMismatch(f"{folder}: prepared with data.{name} {then}, now {now}; remove it or choose another place")


def _check_bad(media: Media, bad: list[BadItem], num_items: int, max_fraction: float) -> None:
    if len(bad) > (allowed := allowed_bad(num_items, max_fraction)):
        is_folder = isinstance(media, Files) and media.labels is None
        remedy = "or remove them" if is_folder else "them or take out their rows"
        raise ConfigError(
            f"{media.name}: {len(bad)} of {num_items} items cannot be read, more than data.max_bad_fraction {max_fraction:g} "
            f"allows ({allowed}): "
            f"{format_bad_items(bad)}; fix {remedy}, or --set data.max_bad_fraction={min(1.0, len(bad) / num_items + 0.005):.2f}"
        )


def _check_any_usable(name: str, scanned: Scanned, min_length: int, if_all_short: Callable[[int, int], str]) -> None:
    readable_N = scanned.lengths_N[scanned.lengths_N > 0]
    if (readable_N >= min_length).any():
        return
    found = f"{len(readable_N)} are shorter than {min_length} samples, {len(scanned.bad)} cannot be read"
    remedy = if_all_short(int(readable_N.min()), int(readable_N.max())) if len(readable_N) else "point --data at something else"
    raise ConfigError(f"{name}: none of {len(scanned.lengths_N)} items can be used ({found}); {remedy}")


def _write_index(folder: Path, scanned: Scanned, *, min_length: int, heldout_fraction: float) -> dict[str, int]:
    lengths_N = scanned.lengths_N
    is_usable_N = lengths_N >= max(1, min_length)
    num_short = len(lengths_N) - len(scanned.bad) - int(is_usable_N.sum())
    splits = split_items(scanned, np.flatnonzero(is_usable_N), heldout_fraction, (folder / SEGMENTS_FILE).exists())
    (folder / "lengths.bin").write_bytes(lengths_N.tobytes())
    (folder / "bad.json").write_text(json.dumps([item[:2] for item in scanned.bad]) + "\n")
    for split, items_K in splits.items():
        (folder / f"{split}.bin").write_bytes(items_K.astype(np.int64).tobytes())
    counts = {"items": len(lengths_N), "bad": len(scanned.bad), "short": num_short}
    return counts | {split: len(items_K) for split, items_K in splits.items()}


def _log_counts(log: Log, kind: MediaKind, info: Info, bad: list[BadItem], min_length: int) -> None:
    counts = info.counts
    if bad:
        log(f"left out {len(bad)} {kind.name} items that cannot be read (all in bad.json): {format_bad_items(bad)}")
    if counts["short"]:
        log(f"left out {counts['short']} {kind.name} items shorter than {min_length} samples")
    if not counts["valid"] and info.settings["data.heldout_fraction"] and counts["train"] > 1:
        log(f"nothing is held out: all {counts['train']} {kind.name} items are of one file")
    if counts["valid"] > 2 * max(1, info.settings["data.heldout_fraction"] * (counts["valid"] + counts["train"])):
        log(f"warning: {counts['valid']} items are held out, more than twice the share asked for: the items of one file stay together")
    log(f"prepared {counts['items']} {kind.name} items: {counts['train']} train and {counts['valid']} held-out samples")


def _load_info(folder: Path) -> Info:
    try:
        return _read_info(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}: not readable as prepared data ({error}); remove the folder and prepare it again") from error


def _read_info(folder: Path) -> Info:
    values = json.loads((folder / "prepared.json").read_text())
    if "kind" not in values:
        raise DataMismatch(f"{folder}: prepared from text, not from audio or images; point --data at those or choose another place")
    if values["version"] != FORMAT_VERSION:
        raise ConfigError(
            f"{folder}: prepared format {values['version']}, this version reads {FORMAT_VERSION}; remove it and prepare it again"
        )
    return Info(**values)


def open_prepared(folder: Path) -> PreparedMedia:
    """Open a prepared folder of recordings or images, memory-mapped. Raises: ConfigError if a file is missing or has the wrong size."""
    try:
        info = _load_info(folder)
        lengths_N = shards.map_array(folder / "lengths.bin", np.int64)
        bad = [BadItem(*item) for item in json.loads((folder / "bad.json").read_text())]
        splits = {split: shards.map_array(folder / f"{split}.bin", np.int64) for split in SPLITS}
        media = open_items(folder, info.source, info.place)
        found = {"items": len(lengths_N), "bad": len(bad)} | {split: len(items_K) for split, items_K in splits.items()}
        is_whole = all(info.counts[key] == count for key, count in found.items()) and len(media) == len(lengths_N)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{folder}: not readable as prepared data ({error}); remove the folder and prepare it again") from error
    if not is_whole:
        raise ConfigError(f"{folder}: a file in it is damaged; remove the folder and prepare it again")
    return PreparedMedia(folder, media, lengths_N, splits, info.fingerprint, info.counts, bad)
