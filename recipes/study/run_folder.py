"""The folders of a study's runs: which cell and study each one belongs to, and whether the study file still describes what it holds.
Torch-free."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError
from recipes.run_dir.run_dir import read_config
from recipes.settings import dotted, recipe_to_dict
from recipes.study.cells import Cell
from recipes.study.study_file import Study
from recipes.system.durable import write_text_atomically

RECORD, DS_CONFIG_FILE = "cell.json", "ds_config.json"
FREE = ("run.log_steps", "run.save_steps", "run.wandb", "run.max_minutes", "run.hang_seconds", "run.device_tflops", "run.seed")
FREE_SECTIONS = ("data.path", "data.num_workers", "checkpoint.")
"""Settings that change neither what a run learns nor what it costs, so that a study file may change them at any time. data.path of a cell
is that of the prepared data; the study's own `data` may not change."""
SHOWN_CELLS = 5


@dataclass(frozen=True)
class Run:
    """One run of a cell."""

    cell: Cell
    seed: int
    path: Path
    """The run dir."""

    @property
    def name(self) -> str:
        """Cell and seed, as status and messages show them."""
        return f"{self.cell.name} seed {self.seed}"

    @property
    def key(self) -> str:
        """The run in the study's own logs."""
        return f"{self.cell.name}/{self.path.name}"

    @property
    def ds_config(self) -> Path:
        """The ds_config of the run: the cell's own if it changes one."""
        return (self.path.parent / DS_CONFIG_FILE if self.cell.ds_changes else self.cell.ds_config).resolve()


def runs_of(study: Study, cells: Sequence[Cell]) -> list[Run]:
    """Return the runs of all cells that can run, cell by cell."""
    return [Run(cell, seed, run_dir_of(study, cell.name, seed)) for cell in cells if not cell.refused for seed in study.seeds]


def run_dir_of(study: Study, cell: str, seed: int) -> Path:
    """Return the run dir of a cell's run with this seed."""
    return study.cells_folder / cell / f"seed_{seed}"


def check_folders(study: Study, cells: Sequence[Cell]) -> None:
    """Check that the runs in the study's folder are those of the study file as it is now.

    Raises: ConfigError if a cell's folder belongs to another study, or if cells with runs were changed or taken out of the file.
    """
    by_name, changed = {cell.name: cell for cell in cells}, []
    for folder in sorted(study.cells_folder.glob("*")):
        if not any(folder.glob("*/config.json")):
            continue
        record = read_record(folder)
        if record is None or record.get("study") != study.name:
            owner = f"study {record.get('study')}" if record else "no study"
            raise ConfigError(
                f'{folder} holds runs of {owner}, not of {study.name}; give {study.path} another "out", or move the folder away'
            )
        cell = by_name.get(folder.name)
        if cell is None:
            changed.append(f"{folder.name} (not in the file any more)")
        elif differing := list(_differences(record, identity(study, cell))):
            differing.sort(key=lambda text: text.partition(" ")[0] in cell.derived)  # first what the file itself changes
            changed.append(f"{folder.name} ({differing[0]})")
        elif lost := [path.name for path in sorted(folder.glob("seed_*")) if path.name not in {f"seed_{seed}" for seed in study.seeds}]:
            changed.append(f"{folder.name} ({lost[0]} is not in the file any more)")
    if changed:
        more = f" and {len(changed) - SHOWN_CELLS} more" if len(changed) > SHOWN_CELLS else ""
        raise ConfigError(
            f"{study.path} was changed under {len(changed)} cells that have runs: {', '.join(changed[:SHOWN_CELLS])}{more}; undo it, or "
            f'give it another "out"'
        )


def write_records(study: Study, cells: Sequence[Cell]) -> None:
    """Write into each cell's folder what the cell is, if that is not there yet. Raises: ConfigError if it cannot be written."""
    for cell in cells:
        folder = study.cells_folder / cell.name
        record = {"study": study.name, "cell": cell.name, "values": dict(cell.values), **identity(study, cell)}
        is_written = (folder / DS_CONFIG_FILE).exists() or not cell.ds_changes
        if cell.refused or (is_written and read_record(folder) == record):
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if cell.ds_changes:
                write_text_atomically(folder / DS_CONFIG_FILE, json.dumps(cell.ds_content, indent=2) + "\n")
            write_text_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            remedy = f'give {study.path} another "out", or free the disk'
            raise ConfigError(f"{folder / RECORD} cannot be written ({error.strerror}); {remedy}") from None


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return what write_records() has written for a cell; None if there is no such file or it is damaged."""
    try:
        content = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def identity(study: Study, cell: Cell) -> dict[str, Any]:
    """Return what makes the cell the same one: the settings that decide what its runs learn and cost, its data, its ds_config and its
    ranks."""
    recipe, data = decisive(recipe_to_dict(cell.recipe)), study.data or cell.recipe.data.path
    return {"recipe": recipe, "data": data, "deepspeed_config": dotted(cell.ds_content), "ranks": cell.ranks}


def decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe, by their dotted names, that decide what a run learns and costs. `recipe`: as config.json has it."""
    settings = {name: value for name, value in dotted(recipe).items() if name not in FREE and not name.startswith(FREE_SECTIONS)}
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    yield from changed_values(before.get("recipe", {}), now["recipe"])
    yield from changed_values(before.get("deepspeed_config", {}), now["deepspeed_config"], "ds_config.", has_all=True)
    yield from changed_values(before, {key: now[key] for key in ("data", "ranks")})


def changed_values(old: dict[str, Any], new: dict[str, Any], prefix: str = "", *, has_all: bool = False) -> Iterator[str]:
    """Yield `name before -> now` of the values that differ. `has_all`: a name that only one of them has counts too. It does not in a
    recipe, since another release may have more settings."""
    for name in {**old, **new}:
        if (has_all or (name in old and name in new)) and old.get(name) != new.get(name):
            yield f"{prefix}{name} {old.get(name)} -> {new.get(name)}"


def check_run(run: Run) -> str | None:
    """Return why the content of the run dir cannot be read; None if it can, or if there is none.

    Raises: ConfigError if it holds a run of other settings than the cell's.
    """
    try:
        stored = read_config(run.path)
    except ConfigError as error:
        return error.without_remedy
    if stored is None:
        return None
    if stored.recipe["name"] != run.cell.recipe.name:
        raise ConfigError(f"{run.path} holds a run of recipe {stored.recipe['name']}, not {run.cell.recipe.name}; move it away")
    if differing := next(changed_values(decisive(stored.recipe), decisive(recipe_to_dict(run.cell.recipe))), None):
        raise ConfigError(f"{run.path} holds a run of other settings than its cell ({differing}); move it away")
    return None
