"""Refuses to prepare large data while many ranks wait for rank 0: launch/prepare.py does it before the job. Prepares nothing."""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledDataConfig

MANY_RANKS = 16
"""With at most this many ranks, rank 0 prepares data of any size."""
MANY_FILES, MANY_BYTES = 100_000, 10**10
"""Data are large above one of these. Up to them, a node prepares in a minute or two."""
MEASURED_FILES = 1000
"""How many files are measured. The others are taken to be as large on average: to measure each takes long on a network file system."""


def check_not_waiting(recipe: Recipe, out: Path, num_ranks: int, *, command: Sequence[str], kept: Mapping[str, Path]) -> None:
    """Check that the recipe's data, which are not prepared, are small enough to be prepared at `out` while `num_ranks` ranks wait.
    `command`: the words of this launch's command. `kept`: settings that name files of the run -> these files. Data of a hub and labelled
    data, which launch/prepare.py does not prepare, are not checked.

    Raises: ConfigError with the command that prepares the data.
    """
    path = recipe.data.path
    if num_ranks <= MANY_RANKS or path is None or isinstance(recipe.data, LabelledDataConfig):
        return
    if amount := large_amount(Path(path).expanduser()):
        raise ConfigError(
            f"--data {path}: not prepared, {amount}, and {num_ranks} ranks would wait for it; run launch/prepare.py first: "
            f"{prepare_command(recipe, out, command, kept)}; then give the same command again"
        )


def large_amount(path: Path) -> str:
    """Return how much there is in a file or folder if that is large, else "". It stops looking above MANY_FILES."""
    sizes, num_files, seen = list[int](), 0, set[str]()
    for folder, folders, names in os.walk(path, followlinks=True) if path.is_dir() else [(str(path.parent), list[str](), [path.name])]:
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        num_files += len(names)
        sizes += [_size(os.path.join(folder, name)) for name in names[: MEASURED_FILES - len(sizes)]]
        if num_files > MANY_FILES:
            return f"more than {MANY_FILES:,} files"
    num_bytes = sum(sizes) * num_files // max(1, len(sizes))
    return f"about {num_bytes / 1e9:,.0f} GB" if num_bytes > MANY_BYTES else ""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link to nothing
        return 0


def prepare_command(recipe: Recipe, out: Path, command: Sequence[str], kept: Mapping[str, Path]) -> str:
    """Return the command that prepares at `out` what the launch `command` would prepare there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default=recipe.name)
    parser.add_argument("--set", action="append", default=[])
    given, _ = parser.parse_known_args(command)
    settings = [*given.set, *(f"{name}={path}" for name, path in kept.items())]
    words = [recipe.modality, "--recipe", given.recipe, "--data", str(recipe.data.path), "--out", str(out)]
    return f"python launch/prepare.py {shlex.join([*words, *(word for one in settings for word in ('--set', one))])}"
