"""Runs of one command with several seeds: their folders, the runs one after another, and the results over all of them. Torch-free on one
process. What one run does is in start.py.

RUN_DIR/seed_1, seed_2, ...     a complete run each, with run.seed, run.seed + 1, ...
RUN_DIR/results.json            value of each seed, mean, sample standard deviation and standard error
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from recipes.cluster.environment import export_world, is_first_rank
from recipes.config import Recipe
from recipes.errors import ConfigError, Stopped
from recipes.finetune.child import Children
from recipes.finetune.results import Entry, add_results
from recipes.finetune.task_result import FAILED, result_lines, scored_entries, seeds_entry
from recipes.run_dir.run_dir import FREE_SECTIONS, read_config
from recipes.settings import differences
from recipes.system.atomic_folder import atomic_folder
from recipes.train.from_data import with_stored_values

PREFIX = "seed_"
ARRAY_TASK = "SLURM_ARRAY_TASK_ID"
Say = Callable[[str], None]
PRINT: Say = partial(print, flush=True)
"""The lines of the runs themselves come from other processes, so these lines must not wait in a buffer."""


class Together(Protocol):
    """The ranks of a launch, between the runs of two seeds. Every rank calls the methods in the same order."""

    def agree(self, number: int, is_done: bool) -> bool:
        """Return what the first rank has found (`is_done`): whether seed `number` is finished."""

    def begin(self, number: int, is_stopped: bool) -> Mapping[str, str] | None:
        """Return the environment variables of the process that runs seed `number` on this rank. None if a rank was asked to stop
        (`is_stopped`)."""

    def end(self, number: int, code: int) -> int:
        """Wait until the first rank has scored seed `number`, and return its exit code; at once if `code`, that of this rank, is not 0."""


class Alone:
    """A launch on one process. Implements Together."""

    def agree(self, number: int, is_done: bool) -> bool:
        """Return `is_done`."""
        return is_done

    def begin(self, number: int, is_stopped: bool) -> Mapping[str, str] | None:
        """Return {}, or None if this process was asked to stop."""
        return None if is_stopped else {}

    def end(self, number: int, code: int) -> int:
        """Return `code`."""
        return code


def seed_folder(run_dir: Path, number: int) -> Path:
    """Return the run dir of seed `number`, from 1."""
    return run_dir / f"{PREFIX}{number}"


def seed_of(recipe: Recipe, number: int) -> int:
    """Return run.seed of seed `number`."""
    return recipe.run.seed + number - 1


def seed_settings(recipe: Recipe, number: int) -> list[str]:
    """Return the assignments of --set that make the recipe that of seed `number`."""
    return [f"run.seed={seed_of(recipe, number)}", "finetune.seeds=1"]


def seed_recipe(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe of seed `number`."""
    return replace(recipe, run=replace(recipe.run, seed=seed_of(recipe, number)), finetune=replace(recipe.finetune, seeds=1))


def array_task(num_seeds: int) -> int | None:
    """Return the number of the seed that this task of a Slurm job array runs; None outside of one. Raises: ConfigError if there is no such
    seed."""
    text = os.environ.get(ARRAY_TASK)
    if text is None:
        return None
    if not (text.isdecimal() and 1 <= int(text) <= num_seeds):
        raise ConfigError(f"{ARRAY_TASK}={text} with finetune.seeds={num_seeds}; submit with --array=1-{num_seeds}")
    return int(text)


def check_layout(run_dir: Path, num_seeds: int) -> None:
    """Check that the folder holds no run if it is for several seeds, and no seeds if it is for one run. Raises: ConfigError."""
    if num_seeds > 1 and (run_dir / "config.json").exists():
        raise ConfigError(f"--run-dir {run_dir} holds a run of one seed, finetune.seeds is {num_seeds}; name another --run-dir")
    if num_seeds == 1 and seed_folder(run_dir, 1).is_dir():
        raise ConfigError(
            f"--run-dir {run_dir} holds runs of several seeds, finetune.seeds is 1; set their number or name another --run-dir"
        )


def is_finished(run_dir: Path, recipe: Recipe, number: int) -> bool:
    """True if seed `number` was trained and scored with these settings. Raises: ConfigError if its files cannot be read."""
    folder, own = seed_folder(run_dir, number), seed_recipe(recipe, number)
    config = read_config(folder)
    if config is None or not scored_entries(folder, recipe):
        return False
    changed = differences(config.recipe, with_stored_values(folder, own), config.writer)
    return all(name.startswith(FREE_SECTIONS) for name in changed)  # where the weights began is compared when a run is resumed


def share_prepared(run_dir: Path, number: int) -> None:
    """If seed `number` has no prepared data yet, give it those of another seed, as links. Files of prepared data are never changed, so the
    folders stay independent. Without links, nothing is done and the run prepares its data itself."""
    own = seed_folder(run_dir, number) / "prepared"
    found = next((folder for folder in sorted(run_dir.glob(f"{PREFIX}*/prepared")) if (folder / "prepared.json").exists()), None)
    if found is None or own.exists():
        return
    with suppress(OSError, ConfigError), atomic_folder(own) as folder:
        for path in found.rglob("*"):
            copy = folder / path.relative_to(found)
            copy.mkdir(parents=True) if path.is_dir() else os.link(path, copy)


def run_seeds(recipe: Recipe, run_dir: Path, command: Sequence[str]) -> int:
    """Run all seeds one after another, those that are finished left out, then write and print the results over all. Return 0, or the
    exit code of the first seed that did not end with 0.

    `command`: the command line, to which the options of a seed are added. Raises: ConfigError if the results cannot be written.
    """
    world = export_world()
    with Children() as children:
        if world.size == 1:
            return run_one_after_another(recipe, run_dir, command, children, Alone())
        from recipes.finetune.ranks import joined_ranks  # torch, in seconds

        with joined_ranks(world) as ranks:
            return run_one_after_another(recipe, run_dir, command, children, ranks)


def run_one_after_another(
    recipe: Recipe, run_dir: Path, command: Sequence[str], children: Children, ranks: Together, *, say: Say = PRINT
) -> int:
    """Do what run_seeds() says, with the processes `children` of this rank and the other ranks `ranks`. `say` prints a line, on the first
    rank only."""
    num_seeds = recipe.finetune.seeds
    say = say if is_first_rank() else lambda line: None
    for number in range(1, num_seeds + 1):
        if ranks.agree(number, is_finished(run_dir, recipe, number)):  # a shared file may be visible later on another node
            continue
        env = ranks.begin(number, children.reason is not None)
        if env is None:
            say(f"stopped by {children.reason or 'a request'} before seed {number} of {num_seeds}; the same command continues")
            return Stopped.exit_code
        folder = seed_folder(run_dir, number)
        say(f"seed {number} of {num_seeds}, run.seed {seed_of(recipe, number)}: {folder}")
        if is_first_rank():
            share_prepared(run_dir, number)
        options = [part for one in seed_settings(recipe, number) for part in ("--set", one)]
        code = ranks.end(number, children.run([*command, "--run-dir", str(folder), *options], env))
        if code:
            say(f"seed {number} of {num_seeds} ended with exit code {code}")
            return code
    if is_first_rank():
        report_seeds(recipe, run_dir, say)
    return 0


def report_seeds(recipe: Recipe, run_dir: Path, say: Say = PRINT) -> None:
    """Write and print the results over all seeds. If some are still missing, print how many. Raises: ConfigError if a file cannot be read
    or written."""
    num_seeds = recipe.finetune.seeds
    found = [scored_entries(seed_folder(run_dir, number), recipe) for number in range(1, num_seeds + 1)]
    if missing := found.count([]):
        say(f"{num_seeds - missing} of {num_seeds} seeds are scored; the last one writes the results over all")
        return
    entries = over_seeds(found)
    path = add_results(run_dir, entries, FAILED)
    for line in (*result_lines(entries), f"written to {path}"):
        say(line)


def over_seeds(found: Sequence[Sequence[Entry]]) -> list[Entry]:
    """Return the entries over all seeds, one for each split. `found`: the entries of each seed."""
    splits = [entry["split"] for entry in found[0]]
    return [seeds_entry([entry for one in found for entry in one if entry["split"] == split]) for split in splits]


def active_run(run_dir: Path) -> Path:
    """Return the folder of the run that was active last: that of a seed, or `run_dir` itself if it has no seeds."""
    logs = list(run_dir.glob(f"{PREFIX}*/events.jsonl"))
    return max(logs, key=lambda path: path.stat().st_mtime).parent if logs else run_dir


def python_command() -> list[str]:
    """Return the command line of this process."""
    return [sys.executable, *sys.argv]
