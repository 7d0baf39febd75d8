"""The folders of a study: what a cell's record holds, and which changes of a study file its runs do not allow."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.ds_config import load_ds_config
from recipes.errors import ConfigError
from recipes.study.cells import Cell, cells_of
from recipes.study.run_folder import Run, check_folders, check_run, identity, read_record, runs_of, write_records
from recipes.study.study_file import Study, read_study
from tests.made_up_study import made_up_run, made_up_study

STEPS = "run.max_steps"
DS_KEY = "ds_config.train_micro_batch_size_per_gpu"


def opened(folder: Path, **keys: Any) -> tuple[Study, list[Cell]]:
    study = read_study(made_up_study(folder, **keys))
    cells = cells_of(study)
    check_folders(study, cells)
    return study, cells


def with_a_run(folder: Path, **keys: Any) -> tuple[Study, list[Cell]]:
    """Return a study that has a run of its first cell."""
    study, cells = opened(folder, **keys)
    write_records(study, cells)
    made_up_run(runs_of(study, cells)[0], score=0.3)
    return study, cells


def test_runs_have_a_folder_for_each_cell_and_seed(tmp_path: Path) -> None:
    study, cells = opened(tmp_path, seeds=[3, 5])
    runs = runs_of(study, cells)
    assert len(runs) == 8 and [run.seed for run in runs[:2]] == [3, 5]
    assert runs[1].path == tmp_path / "out" / "cells" / "hidden_size-32_max_steps-20" / "seed_5"
    assert (runs[1].name, runs[1].key) == ("hidden_size-32_max_steps-20 seed 5", "hidden_size-32_max_steps-20/seed_5")
    assert runs[1].ds_config.name == "zero3_cpu.json" and runs[1].ds_config.is_absolute()


def test_a_refused_cell_has_no_runs_and_no_record(tmp_path: Path) -> None:
    study, cells = opened(tmp_path, axes={"tokens": [1, 1e6]})
    write_records(study, cells)
    assert [run.cell.name for run in runs_of(study, cells)] == ["tokens-1e06"] * 2
    assert [folder.name for folder in study.cells_folder.iterdir()] == ["tokens-1e06"]


def test_the_cells_own_ds_config_is_written_and_used(tmp_path: Path) -> None:
    study, cells = opened(tmp_path, axes={DS_KEY: [4, 8]})
    write_records(study, cells)
    run = runs_of(study, cells)[-1]
    assert run.ds_config == (run.path.parent / "ds_config.json").resolve()
    content = load_ds_config(run.ds_config)
    assert content == load_ds_config(run.cell.ds_config) | {"train_micro_batch_size_per_gpu": 8}


def test_a_ds_config_that_is_gone_is_written_again(tmp_path: Path) -> None:
    """A process may be killed between its two files."""
    study, cells = opened(tmp_path, axes={DS_KEY: [4]})
    write_records(study, cells)
    run = runs_of(study, cells)[0]
    run.ds_config.unlink()
    write_records(study, cells)
    assert run.ds_config.exists()


def test_a_record_is_written_once(tmp_path: Path) -> None:
    study, cells = opened(tmp_path)
    write_records(study, cells)
    path = study.cells_folder / cells[0].name / "cell.json"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    write_records(*opened(tmp_path))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    record = read_record(path.parent)
    assert record is not None and record["study"] == "made_up" and record["values"] == {"hidden_size": 32, "max_steps": 20}
    assert record["ranks"] == 1 and record["recipe"]["model.hidden_size"] == 32 and "run.log_steps" not in record["recipe"]


def test_a_study_without_changes_is_accepted(tmp_path: Path) -> None:
    axes = {"model.init_std": [None, 0.02], "teacher.layer_norms": [["instance"]], DS_KEY: [8], "ranks": [2], "tokens": [1e6]}
    with_a_run(tmp_path, axes=axes)
    opened(tmp_path, axes=axes)


@pytest.mark.parametrize(
    "keys",
    [
        {"set": {"run.log_steps": 7}},
        {"set": {"run.save_steps": 7, "run.wandb": "online", "run.max_minutes": 5.0, "checkpoint.keep_last": 9}},
        {"seeds": [1, 2, 3]},
        {"seeds": [1, 2, 9]},
        {"axes": {"model.hidden_size": [32, 64, 96], STEPS: [20, 40]}},
        {"axes": {"model.hidden_size": [32], STEPS: [20]}},
        {"fit": {"held_out": False}},
    ],
    ids=str,
)
def test_a_free_change_is_accepted(keys: dict[str, Any], tmp_path: Path) -> None:
    with_a_run(tmp_path)
    assert opened(tmp_path, **keys)[1]


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        ({"set": {"optim.lr": 0.5}}, "optim.lr 0.004 -> 0.5"),
        ({"set": {"run.global_batch_size": 32}}, "run.global_batch_size 16 -> 32"),
        ({"base": "text_base"}, "name text_tiny -> text_base"),
        ({"rules": {"lr_width": 0}}, "optim.lr 0.004 -> 0.002"),
        ({"deepspeed_config": "zero3_cpu_bf16"}, "ds_config."),
        ({"set": {"ranks": 2}}, "ranks 1 -> 2"),
        ({"data": "elsewhere"}, "data None -> elsewhere"),
        ({"seeds": [2]}, "seed_1 is not in the file any more"),
        ({"set": {DS_KEY: 8}}, "ds_config.train_micro_batch_size_per_gpu auto -> 8"),
        ({"axes": {"model.hidden_size": [64], STEPS: [20]}}, "not in the file any more"),
    ],
    ids=str,
)
def test_a_change_under_runs_names_the_cells(keys: dict[str, Any], change: str, tmp_path: Path) -> None:
    with_a_run(tmp_path)
    with pytest.raises(ConfigError) as found:
        opened(tmp_path, **keys)
    text = str(found.value)
    assert "was changed under 1 cells that have runs: hidden_size-32_max_steps-20 (" in text and change in text


def test_a_cell_that_was_recorded_and_not_begun_may_change(tmp_path: Path) -> None:
    write_records(*opened(tmp_path))
    study, cells = opened(tmp_path, set={"optim.lr": 0.5})
    write_records(study, cells)
    record = read_record(study.cells_folder / cells[0].name)
    assert record is not None and record["recipe"]["optim.lr"] == 0.5


def test_many_changed_cells_are_counted(tmp_path: Path) -> None:
    steps = list(range(20, 27))
    study, cells = opened(tmp_path, axes={STEPS: steps}, seeds=[1])
    write_records(study, cells)
    for run in runs_of(study, cells):
        made_up_run(run, score=0.3)
    with pytest.raises(ConfigError, match=r"under 7 cells .* and 2 more; undo it"):
        opened(tmp_path, axes={STEPS: steps}, seeds=[1], set={"optim.lr": 0.5})


def test_a_ds_config_whose_content_changes_under_runs_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text((Path(__file__).parents[3] / "ds_configs" / "zero3_cpu.json").read_text())
    with_a_run(tmp_path, deepspeed_config=str(own))
    opened(tmp_path, deepspeed_config=str(own))
    own.write_text(json.dumps(load_ds_config(own) | {"bf16": {"enabled": True}}))
    with pytest.raises(ConfigError, match="was changed under 1 cells"):
        opened(tmp_path, deepspeed_config=str(own))


def test_runs_of_another_study_are_refused(tmp_path: Path) -> None:
    with_a_run(tmp_path)
    with pytest.raises(ConfigError, match=r'holds runs of study made_up, not of other; .* another "out"'):
        opened(tmp_path, name="other")


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_runs_without_a_record_are_refused(damage: str | None, tmp_path: Path) -> None:
    study, cells = with_a_run(tmp_path)
    path = study.cells_folder / cells[0].name / "cell.json"
    path.unlink() if damage is None else path.write_text(damage)
    assert read_record(path.parent) is None
    with pytest.raises(ConfigError, match="holds runs of no study"):
        opened(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    study, cells = opened(tmp_path)
    study.out.write_text("a file")
    with pytest.raises(ConfigError, match='another "out"'):
        write_records(study, cells)


def test_the_identity_survives_json(tmp_path: Path) -> None:
    study, cells = opened(tmp_path, axes={"teacher.layer_norms": [["layer", "batch"]], DS_KEY: [4]})
    assert json.loads(json.dumps(identity(study, cells[0]))) == identity(study, cells[0])


@pytest.fixture
def begun(tmp_path: Path) -> list[Run]:
    """Two cells, of which the first has a run."""
    study, cells = opened(tmp_path)
    runs = runs_of(study, cells)
    made_up_run(runs[0], score=0.3)
    return runs


def test_a_run_dir_of_another_recipe_is_refused(begun: list[Run]) -> None:
    config = json.loads((begun[0].path / "config.json").read_text())
    config["recipe"]["name"] = "text_base"
    (begun[0].path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="seed_1 holds a run of recipe text_base, not text_tiny; move it away"):
        check_run(begun[0])


def test_a_run_dir_of_other_settings_is_refused(begun: list[Run]) -> None:
    """A run of the same recipe by hand, or of another cell, which was moved here."""
    begun[-1].path.parent.mkdir(parents=True)
    begun[0].path.rename(begun[-1].path)
    with pytest.raises(ConfigError, match=r"seed_2 holds a run of other settings than its cell \(.* -> .*\); move it away"):
        check_run(begun[-1])


def test_a_run_that_is_fine_or_not_begun_passes_and_a_damaged_one_has_the_reason(begun: list[Run]) -> None:
    assert [check_run(run) for run in begun] == [None] * len(begun)
    (begun[0].path / "config.json").write_text("{")
    assert "config.json is damaged" in str(check_run(begun[0]))
