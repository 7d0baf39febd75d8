"""The command line of a run, and the data that all runs of a study share. Torch-free until data are prepared."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.bounds import Place
from recipes.config import Recipe
from recipes.errors import DataMismatch
from recipes.modalities.registry import MODALITIES
from recipes.settings import walk_settings, with_values
from recipes.study.cells import Cell
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from recipes.values import text_of_value

ROOT = Path(__file__).parents[2]
PREPARED = "prepared"


def script_of(modality: str) -> str:
    """Return the path of the modality's pre-training script, from the root of the checkout."""
    return f"launch/pretrain_{modality}.py"


def arguments(study: Study, run: Run, data: Path) -> list[str]:
    """Return the arguments of the pre-training script for a run, with the prepared `data`."""
    settings = _absolute(run.cell) | {"run.seed": run.seed}
    words = [
        *("--recipe", _resolved(study.base_name)),
        *("--deepspeed_config", str(run.ds_config)),
        *("--data", str(data.resolve())),
        *("--run-dir", str(run.path.resolve())),
    ]
    return words + [word for name, value in settings.items() for word in ("--set", f"{name}={text_of_value(value)}")]


def _absolute(cell: Cell) -> dict[str, Any]:
    """Return the cell's settings, with absolute paths: runs begin in the root of the checkout."""
    places = {name for name, _, _, notes in walk_settings(cell.recipe) if any(isinstance(note, Place) for note in notes)}
    here = {name: Path(str(value)).expanduser() for name, value in cell.settings.items() if name in places}
    return dict(cell.settings) | {name: str(path.resolve()) for name, path in here.items() if path.exists()}


def _resolved(base: str) -> str:
    """Return the value of --recipe. A file of the user's is named from the current folder, and runs begin in another one."""
    file, colon, function = base.rpartition(":")
    return f"{Path(file).expanduser().resolve()}{colon}{function}" if file.endswith(".py") else base


def local_command(study: Study, run: Run, data: Path) -> list[str]:
    """Return the command that trains a run on this machine: plain Python for one rank, torchrun for several."""
    launcher = [] if run.cell.ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={run.cell.ranks}"]
    return [sys.executable, *launcher, str(ROOT / script_of(study.base.modality)), *arguments(study, run, data)]


def grid_line(study: Study, run: Run, data: Path) -> str:
    """Return the line of a grid file for launch/scaling.sbatch."""
    return shlex.join([script_of(study.base.modality), *arguments(study, run, data)])


def prepare_data(study: Study, runs: Sequence[Run], say: Callable[[str], None]) -> dict[str, Path]:
    """Prepare the data of all runs, once for all runs that can share them. Return run key -> prepared folder. Raises: ConfigError."""
    folders: dict[str, Path] = {}
    known: dict[tuple[object, object], Path] = {}
    for run in runs:
        recipe = run.cell.recipe
        recipe = with_values(recipe, {"data.path": study.data or recipe.data.path})
        shared = recipe.data, recipe.frontend
        if shared not in known:
            known[shared] = _prepare(study, recipe, say)
        folders[run.key] = known[shared]
    return folders


def _prepare(study: Study, recipe: Recipe, say: Callable[[str], None]) -> Path:
    """Return one of the study's prepared folders if the recipe can use it, else a new one. Raises: ConfigError."""
    root = study.out / PREPARED
    others = sorted(int(path.name) for path in root.glob("*") if path.name.isdecimal())
    for number in [*others, max(others, default=0) + 1]:
        try:
            return MODALITIES[recipe.modality].prepare(recipe, root / str(number), progress=True, log=say)
        except DataMismatch:
            if number not in others:
                raise
    raise AssertionError("a new folder fits")
