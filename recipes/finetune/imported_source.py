"""A model of Hugging Face with whose weights a fine-tuning run begins: it is imported once, as the run `source` in the run dir, by the code
of launch/convert.py import. Torch-free until it reads a model."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from recipes.checkpoint.inspect import is_hugging_face
from recipes.cluster.environment import is_first_rank, quiet_libraries
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.plan.size import num_trunk_parameters

FOLDER = "source"
LONGEST_IMPORT_SECONDS = 3600.0
"""How long other ranks wait for the first one's import. Large and a slow disk take minutes."""
POLL_SECONDS = 0.5
Say = Callable[[str], None]
SAY: Say = partial(print, flush=True)


def names_model(source: str) -> bool:
    """True if --from names a model of Hugging Face: an existing folder of one, or what can be no path of a run, so that it may be a name on
    the hub."""
    path = Path(source).expanduser()
    if path.exists():
        return is_hugging_face(path)
    return not (path.is_absolute() or source.startswith(".")) and len(path.parts) <= 2


def model_name(source: str) -> str:
    """Return the text under which a run records the model: the absolute path of a local folder, else the name on the hub."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() or path.is_absolute() else source


def is_named(source: str, recorded: str | None) -> bool:
    """True if --from names the model that a run has recorded. A local folder need not exist any more."""
    return recorded in (model_name(source), str(Path(source).expanduser().resolve()))


def imported_run(source: str, modality: str, run_dir: Path, say: Say = SAY) -> Path:
    """Return the folder of the imported model, a run dir. If there is none, the first rank imports it into the folder FOLDER of `run_dir`,
    and the other ranks, also on other nodes, wait for it. Runs with several seeds share one beside their run dirs. `say` prints a line.

    Raises: ConfigError if the model cannot be imported, is of another modality, or does not appear in time.
    """
    own = run_dir / FOLDER
    for folder in (own, run_dir.parent / FOLDER):
        if is_named(source, _imported_from(folder)):
            return folder
    if own.exists():
        raise ConfigError(f"--from {source}: {own} has {_imported_from(own) or 'something else'}; remove it, or name another --run-dir")
    if is_first_rank():
        _import(source, modality, own, say)
    else:
        _wait(source, own)
    return own


def described_model(source: str, modality: str, run_dir: Path, say: Say = SAY) -> Recipe:
    """Return the recipe that an import would write, and print with `say` what it would do. Nothing is written or downloaded, and no
    tensor is read. Raises: ConfigError."""
    from recipes.interop.hf_import import read_hf_model  # torch, in seconds

    quiet_libraries()
    recipe = read_hf_model(source, None, None, downloads=False).recipe
    _check_modality(source, recipe, modality)
    say(f"--from {source}: would be imported into {run_dir / FOLDER}, {num_trunk_parameters(recipe):,} parameters of the trunk")
    return recipe


def _import(source: str, modality: str, folder: Path, say: Say) -> None:
    quiet_libraries()
    from recipes.interop.hf_import import read_hf_model  # torch, in seconds
    from recipes.interop.imported_run import write_imported_run

    model = read_hf_model(source, None, None)
    _check_modality(source, model.recipe, modality)
    say(f"importing {source} into {folder}")
    model = replace(model, origin={**model.origin, "from": model_name(source)})
    try:
        lines = write_imported_run(folder, model)
    except ConfigError:
        if is_named(source, _imported_from(folder)):  # a launch beside this one, of another seed, was faster
            return
        raise
    for line in lines:
        say(line)


def _check_modality(source: str, recipe: Recipe, modality: str) -> None:
    if recipe.modality != modality:
        raise ConfigError(f"--from {source}: is a model of {recipe.modality}; use launch/finetune_{recipe.modality}.py")


def _wait(source: str, folder: Path) -> None:
    end = time.monotonic() + LONGEST_IMPORT_SECONDS
    while _imported_from(folder) is None:
        if time.monotonic() > end:
            raise ConfigError(
                f"--from {source}: the first rank has not imported it into {folder} in {LONGEST_IMPORT_SECONDS:.0f} s; put --run-dir on a "
                "file system that all nodes share, or import it before with launch/convert.py import"
            )
        time.sleep(POLL_SECONDS)


def _imported_from(folder: Path) -> str | None:
    """Return what the run in `folder` was imported from; None if there is no imported run. The folder of an import appears complete."""
    try:
        content = json.loads((folder / "config.json").read_text())
        return str(content["imported"]["from"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
