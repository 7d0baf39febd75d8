"""Data sets of the `datasets` library: folders of save_to_disk, hub names and parquet files. Chooses the split and describes what is left
out. The content of the rows (text, audio, images) does not matter here."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.data.libraries import required
from recipes.data.splits import ALL, choose_names
from recipes.errors import ConfigError, first_line

NEEDS_SCRIPT = "Dataset scripts are no longer supported"
"""Part of the RuntimeError's message if the hub has no data files for a data set, but a program that loads them."""


def is_saved(folder: Path) -> bool:
    """True if this folder was written by save_to_disk of `datasets`."""
    return any(os.path.exists(folder / name) for name in ("dataset_dict.json", "state.json"))


def load_saved(folder: Path, split: str | None) -> tuple[Any, str]:
    """Load a split of a folder that save_to_disk wrote. Return (rows, one line for the log: what is read and what is left out).

    `split`: the name of a split; None means train, "all" means all splits, joined in their stored order. A folder without splits counts as
    train, and its log line is "".
    Raises: ConfigError if the folder cannot be read; MissingSplit if it has no such split.
    """
    datasets = required("datasets")
    with table_errors(str(folder)):
        saved = datasets.load_from_disk(str(folder))
    sizes = {name: len(rows) for name, rows in saved.items()} if isinstance(saved, datasets.DatasetDict) else {"train": len(saved)}
    found = choose_names(str(folder), list(sizes), split)
    if not isinstance(saved, datasets.DatasetDict):
        return saved, ""
    with table_errors(str(folder)):
        whole = saved[found[0]] if len(found) == 1 else datasets.concatenate_datasets([saved[name] for name in found])
    return whole, _describe_sizes(found, sizes)


def files_of(saved: Any) -> list[Path]:
    """Return the files that this data set is memory-mapped from. If several splits were joined, the files of each of them."""
    return [Path(file["filename"]) for file in saved.cache_files]


def describe_rows(split: str, dataset: Any) -> str:
    """Return one line for the log about `dataset`, loaded from a hub: how many rows of `split` ("all": of all splits) are read, and how
    many rows of other splits are left out. Return "" if the metadata of the data set do not list the split."""
    known = getattr(getattr(dataset, "info", None), "splits", None) or {}
    taken = list(known) if split == ALL else [split] * (split in known)
    return _describe_sizes(taken, {name: info.num_examples for name, info in known.items()})


def _describe_sizes(taken: list[str], sizes: dict[str, int]) -> str:
    left = ", ".join(f"{size:,} of {name}" for name, size in sizes.items() if name not in taken)
    return f"{', '.join(taken)}: {sum(sizes[name] for name in taken):,} rows" + (f"; left out: {left}" if left else "") if taken else ""


def read_parquet(files: Sequence[Path]) -> Any:
    """Return the rows of the parquet files as one datasets.Dataset, one file after another.

    `datasets` gets the list of files. If it searched for the files itself, it would read names as glob patterns and would not follow links.
    Raises: OSError, and the errors of `datasets`.
    """
    datasets = required("datasets")
    versions = [(str(status.st_mtime_ns), str(status.st_size)) for status in map(os.stat, files)]
    found = datasets.data_files.DataFilesList([str(file) for file in files], versions)
    builder = datasets.packaged_modules.parquet.Parquet(data_files=datasets.data_files.DataFilesDict(train=found))
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def load_hub(path: str, split: str = "train") -> Any:
    """Load a split of a data set from the hub. `path` is its `name` or `name:config`. It is downloaded once and then read from the cache of
    `datasets`.

    `split` is one of the data set's own names (also `train[:1%]`), another word for one of them (dev for validation), or "all" for all
    splits.
    Raises: ConfigError if this cannot be the name of a hub data set, or if it cannot be downloaded; MissingSplit if it has no such split.
    """
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", path):
        raise ConfigError(f"--data {path}: no such file or folder")
    datasets = required("datasets")
    import httpx2  # a lost connection is an error of this library, and no OSError

    name, _, config = path.partition(":")
    try:
        try:
            return datasets.load_dataset(name, config or None, split=split)
        except ValueError as error:
            if "Unknown split" not in str(error):
                raise
        known = datasets.load_dataset(name, config or None)
        return datasets.concatenate_datasets([known[chosen] for chosen in choose_names(path, list(known), split)])
    except (OSError, ValueError, httpx2.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"--data {path}: no such file or folder, and the hub does not give it ({first_line(error)}); check the name and the network"
        ) from error
    except RuntimeError as error:
        if NEEDS_SCRIPT not in str(error):
            raise
        raise ConfigError(
            f"--data {path}: {first_line(error)}; name a copy of it on the hub that has parquet files, or download its files and point "
            "--data at them"
        ) from error


@contextmanager
def table_errors(name: str) -> Iterator[None]:
    """In this block, errors of `datasets` about a damaged file become a ConfigError that names the file or folder."""
    datasets, pyarrow = required("datasets"), required("pyarrow")
    try:
        yield
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{name}: cannot be read as a table ({first_line(error)}); fix or remove it") from error
