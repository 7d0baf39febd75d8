"""Selects and removes outdated checkpoints, and removes what a killed save left behind. The newest checkpoint is never removed."""

import shutil
from pathlib import Path

from recipes.checkpoint.layout import best_folder, candidates, step_of
from recipes.config import CheckpointConfig
from recipes.system.durable import sync


def outdated(folders: list[Path], config: CheckpointConfig) -> list[Path]:
    """Return the checkpoints that may be removed. Kept are the newest `keep_last`, at least one, and those whose step is a multiple of
    `keep_every_steps` (if that is not 0). `folders`: all checkpoints, newest first."""
    every = config.keep_every_steps
    return [folder for folder in folders[max(1, config.keep_last) :] if not every or step_of(folder) % every]


def apply_retention(run_dir: Path, config: CheckpointConfig) -> None:
    """Remove the checkpoints of a run that the settings do not keep; never that of the best evaluation. Call it after a new checkpoint is
    complete. Raises: OSError."""
    best = best_folder(run_dir)
    for folder in outdated(candidates(run_dir), config):
        if folder != best:
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint folder. It is renamed first, in one operation, so that no partly removed checkpoint is ever read. Raises:
    OSError."""
    hidden = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    sync(folder.parent)
    shutil.rmtree(hidden)


def remove_leftovers(run_dir: Path) -> None:
    """Remove the folders that a killed process left: checkpoints that it had not finished writing or removing. Only the process that
    owns the run dir may call this."""
    for folder in (run_dir / "checkpoints").glob(".step_*"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
