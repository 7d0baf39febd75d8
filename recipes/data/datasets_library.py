"""Data sets as the `datasets` library keeps them: folders of save_to_disk, hub names, parquet files; which split of one is read, and what
is left out. Knows neither texts nor media."""

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
"""How `datasets` words it, in a RuntimeError, that the hub has no data but a program that loads them."""


def is_saved(folder: Path) -> bool:
    """Whether `datasets` has saved a data set as this folder."""
    return any(os.path.exists(folder / name) for name in ("dataset_dict.json", "state.json"))


def load_saved(folder: Path, split: str | None) -> tuple[Any, str]:
    """What save_to_disk has written, or those of its splits that are wanted (splits.choose_names); and the line that says so.

    Raises: ConfigError; MissingSplit.
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
    return whole, _say_sizes(found, sizes)


def files_of(saved: Any) -> list[Path]:
    """Those that save_to_disk has written of this data set, or of the splits that it was put together from."""
    return [Path(file["filename"]) for file in saved.cache_files]


def say_rows(split: str, dataset: Any) -> str:
    """The line that says what of a hub's data set is read, as far as it tells."""
    known = getattr(getattr(dataset, "info", None), "splits", None) or {}
    taken = list(known) if split == ALL else [split] * (split in known)
    return _say_sizes(taken, {name: info.num_examples for name, info in known.items()})


def _say_sizes(taken: list[str], sizes: dict[str, int]) -> str:
    left = ", ".join(f"{size:,} of {name}" for name, size in sizes.items() if name not in taken)
    return f"{', '.join(taken)}: {sum(sizes[name] for name in taken):,} rows" + (f"; left out: {left}" if left else "") if taken else ""


def read_parquet(files: Sequence[Path]) -> Any:
    """The rows of parquet files, one file after another. `datasets` is given the very files: where it looks for them itself, it takes names
    for patterns and misses what lies behind links. Raises: OSError, and what `datasets` raises."""
    datasets = required("datasets")
    versions = [(str(status.st_mtime_ns), str(status.st_size)) for status in map(os.stat, files)]
    found = datasets.data_files.DataFilesList([str(file) for file in files], versions)
    builder = datasets.packaged_modules.parquet.Parquet(data_files=datasets.data_files.DataFilesDict(train=found))
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def load_hub(path: str, split: str = "train") -> Any:
    """A split of the hub's data set `name` or `name:config`, downloaded once; its cache is then read in place. `split` is a name of the
    hub's (`train[:1%]` too), or one that splits.choose_names knows.

    Raises: ConfigError if the hub cannot have that name, or does not give it; MissingSplit.
    """
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?", path):
        raise ConfigError(f"--data {path}: no such file or folder")
    datasets = required("datasets")
    import httpx  # which datasets needs

    name, _, config = path.partition(":")
    try:
        try:
            return datasets.load_dataset(name, config or None, split=split)
        except ValueError as error:
            if "Unknown split" not in str(error):
                raise
        known = datasets.load_dataset(name, config or None)
        return datasets.concatenate_datasets([known[one] for one in choose_names(path, list(known), split)])
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
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
    """What `datasets` raises at a damaged file, as a ConfigError naming the file or folder."""
    datasets, pyarrow = required("datasets"), required("pyarrow")
    try:
        yield
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{name}: cannot be read as a table ({first_line(error)}); fix or remove it") from error
