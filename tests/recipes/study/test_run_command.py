"""The command line of a run, and the data that the runs of a study share."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.check import resolve_recipe
from recipes.study.command import open_study
from recipes.study.run_command import ROOT, arguments, grid_line, local_command, prepare_data
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from recipes.text import RECIPES
from tests.made_up_study import made_up_study

SMALL = {"frontend.vocab_size": 200, "frontend.max_positions": 64}


def opened(folder: Path, **keys: Any) -> tuple[Study, list[Run]]:
    study, _, runs = open_study(made_up_study(folder, **keys))
    return study, runs


def test_the_arguments_make_the_recipe_of_the_run(tmp_path: Path) -> None:
    study, runs = opened(tmp_path, metric="probe.cloze")
    words = arguments(study, runs[1], tmp_path / "data")
    flags = dict(zip(words[:8:2], words[1:8:2], strict=True))
    assert flags == {
        "--recipe": "text_tiny",
        "--deepspeed_config": str(ROOT / "ds_configs" / "zero3_cpu.json"),
        "--data": str(tmp_path / "data"),
        "--run-dir": str(runs[1].path),
    }
    assert set(words[8::2]) == {"--set"} and words[-1] == "run.seed=2"
    recipe = resolve_recipe("text_tiny", RECIPES, words[9::2], None)
    assert recipe.run.seed == 2 and recipe.model == runs[1].cell.recipe.model and recipe.optim == runs[1].cell.recipe.optim


def test_one_rank_is_plain_python_and_several_are_torchrun(tmp_path: Path) -> None:
    study, runs = opened(tmp_path, axes={"ranks": [1, 2]}, seeds=[1])
    one, two = (local_command(study, run, tmp_path) for run in runs)
    assert one[:2] == [sys.executable, str(ROOT / "launch" / "pretrain_text.py")] and Path(one[1]).exists()
    assert (
        two[:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] and two[5:] == one[1:5] + two[9:]
    )


def test_relative_paths_are_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begins in the root of the checkout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_recipes_of_a_study.py").write_text("from recipes.text import text_tiny as mine\n")
    (tmp_path / "own.json").write_text((ROOT / "ds_configs" / "zero3_cpu.json").read_text())
    study, runs = opened(tmp_path, base="own_recipes_of_a_study.py:mine", deepspeed_config="own.json", out="out")
    words = arguments(study, runs[0], Path("data"))
    found = {flag: words[words.index(flag) + 1] for flag in ("--recipe", "--deepspeed_config", "--data", "--run-dir")}
    assert {flag: value for flag, value in found.items() if not value.startswith(str(tmp_path))} == {}


def test_a_line_of_the_grid_is_read_by_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    study, runs = opened(folder)
    line = grid_line(study, runs[0], folder / "data $HOME")
    assert shlex.split(line) == ["launch/pretrain_text.py", *arguments(study, runs[0], folder / "data $HOME")] and "\n" not in line


def test_runs_that_can_share_data_do(tmp_path: Path, tiny_text: Path) -> None:
    study, runs = opened(tmp_path, data=str(tiny_text), set=SMALL | {"data.sequence_length": 32})
    said: list[str] = []
    folders = prepare_data(study, runs, said.append)
    assert folders == dict.fromkeys([run.key for run in runs], tmp_path / "out" / "prepared" / "1") and folders[runs[0].key].is_dir()


def test_runs_with_other_data_have_a_folder_of_their_own_also_later(tmp_path: Path, tiny_text: Path) -> None:
    """The runs of one cell are done, and the others are submitted again."""
    study, runs = opened(tmp_path, data=str(tiny_text), set=SMALL, axes={"data.sequence_length": [32, 64]}, seeds=[1])
    folders = prepare_data(study, runs, print)
    assert {folder.name for folder in folders.values()} == {"1", "2"}
    assert prepare_data(study, runs[1:], print) == {runs[1].key: folders[runs[1].key]}
