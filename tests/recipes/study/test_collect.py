"""The verb collect on made-up runs: the files that it writes, and what it says."""

import csv
import math
from pathlib import Path
from typing import Any

import datasets
import pytest

from recipes.errors import ConfigError
from recipes.study.collect import CSV, DATASET, TABLE, _parquet, _write, collect, read_curves, read_table, save_dataset
from recipes.study.command import open_study
from recipes.study.progress import progress_of
from recipes.study.run_folder import Run
from recipes.study.study_file import Study, read_study
from tests.made_up_study import ENDINGS, made_up_run, made_up_study


def opened(folder: Path, **keys: Any) -> tuple[Study, list[Run]]:
    study, _, runs = open_study(made_up_study(folder, **keys))
    return study, runs


def collected(study: Study, runs: list[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    said: list[str] = []
    return collect(study, progress_of(study, runs), said.append), said


def test_every_run_has_a_row_in_all_files_whatever_became_of_it(tmp_path: Path) -> None:
    study, runs = opened(tmp_path)
    for ended, run in zip([*ENDINGS, "done"], runs, strict=False):
        made_up_run(run, score=None if ended == "running" else math.nan if run is runs[6] else 0.3, ended=ended)
    rows, said = collected(study, runs)
    assert [row["state"] for row in rows] == ["done", "stopped", "failed", "failed", "failed", "running", "done", "queued"]
    assert read_table(study) == rows
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["cell"] for line in lines] == [row["cell"] for row in rows] and list(lines[0]) == list(rows[0])
    curves = read_curves(study)
    assert len(curves) == 70 and {(row["cell"], row["seed"]) for row in curves} == {(run.cell.name, run.seed) for run in runs[:7]}
    assert said[0] == "8 runs: 3 failed, 2 done, 1 stopped, 1 running, 1 queued"
    assert f"{runs[6].name}: done, probe is missing or not finite in its metrics.jsonl" in said
    assert f"{runs[2].name}: failed, the loss is not finite" in said and said[-1].startswith(f"written to {study.out / 'table.parquet'}")


def test_values_of_several_kinds_are_texts_in_one_column(tmp_path: Path) -> None:
    size = [{"name": "small", "model.hidden_size": 32}, {"name": 7, "model.hidden_size": 64}, {"name": ["a", 1], "model.hidden_size": 96}]
    study, runs = opened(tmp_path, axes={"size": size, "model.init_std": [None, 0.02], "teacher.layer_norms": [["layer"]]}, seeds=[1])
    for run in runs:
        made_up_run(run, score=0.3)
    rows, _ = collected(study, runs)
    table = read_table(study)
    assert [row["axis.size"] for row in table][:4] == ["small", "small", "7", "7"] and len(table) == len(rows) == 6
    assert [row["axis.init_std"] for row in table][:2] == ["none", "0.02"]


def test_a_study_of_which_nothing_has_begun_is_refused(tmp_path: Path) -> None:
    study, runs = opened(tmp_path)
    with pytest.raises(ConfigError, match=r"none of the 8 runs has begun; python launch/scaling.py submit .*study.json"):
        collected(study, runs)
    assert not (tmp_path / "out").exists()


def test_collecting_again_replaces_the_files(tmp_path: Path) -> None:
    study, runs = opened(tmp_path)
    made_up_run(runs[0], score=0.3)
    collected(study, runs)
    made_up_run(runs[1], score=0.4)
    collected(study, runs)
    assert [row["metric"] for row in read_table(study)] == [0.3, 0.4] + [None] * 6


def test_a_table_that_is_missing_or_damaged_has_the_remedy(tmp_path: Path) -> None:
    study, _ = opened(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no .*table.parquet; first: python launch/scaling.py collect"):
        read_table(study)
    study.out.mkdir()
    (study.out / "curves.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"curves.parquet: cannot be read \(.*\); collect again"):
        read_curves(study)


def test_a_damaged_config_of_one_run_does_not_lose_the_others(tmp_path: Path) -> None:
    study, runs = opened(tmp_path)
    made_up_run(runs[0], score=0.3)
    made_up_run(runs[1], score=0.3)
    (runs[1].path / "config.json").write_text("{")
    rows, said = collected(study, runs)
    assert rows[0]["metric"] == 0.3 and rows[1]["problem"] and any("config.json" in line for line in said)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    study, runs = opened(tmp_path)
    made_up_run(runs[0], score=0.3)
    (study.out / "table.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"table\.parquet cannot be written"):
        collected(study, runs)


def test_the_table_is_a_folder_for_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    study, runs = opened(tmp_path)
    made_up_run(runs[0], score=0.3)
    rows, _ = collected(study, runs)
    assert datasets.load_from_disk(str(save_dataset(study, rows))).to_list() == rows


def test_a_table_of_another_metric_is_refused(tmp_path: Path) -> None:
    path = made_up_study(tmp_path)
    study, _, runs = open_study(path)
    for run in runs:
        made_up_run(run, score=0.3)
    collect(study, progress_of(study, runs), print)
    changed = read_study(made_up_study(tmp_path, metric="step_seconds"))
    with pytest.raises(ConfigError, match="metric is step_seconds, and the table was collected for probe; collect again"):
        read_table(changed)


def test_integers_of_more_than_64_bits_are_floats_in_the_table(tmp_path: Path) -> None:
    rows = [{"cell": "a", "seed": 2**70, "flops": 10**19, "kind": 0.5}, {"cell": "b", "seed": 1, "flops": None, "kind": "auto"}]
    study = read_study(made_up_study(tmp_path))
    study.out.mkdir()
    _write(study.out / TABLE, _parquet(rows))
    assert read_table(study) == [
        {"cell": "a", "seed": 2.0**70, "flops": 1e19, "kind": "0.5"},
        {"cell": "b", "seed": 1.0, "flops": None, "kind": "auto"},
    ]
    assert datasets.load_from_disk(str(save_dataset(study, rows)))["kind"][:] == ["0.5", "auto"]


@pytest.mark.parametrize("name", [TABLE, CSV, DATASET])
def test_files_that_cannot_be_written_are_an_error_that_the_user_can_fix(name: str, tmp_path: Path) -> None:
    study, _, runs = open_study(made_up_study(tmp_path))
    for run in runs:
        made_up_run(run, score=0.3)
    rows = collect(study, progress_of(study, runs), print)
    (study.out / name).unlink(missing_ok=True)
    if name == DATASET:
        (study.out / name).write_text("in the way")
        with pytest.raises(ConfigError, match=r"dataset cannot be written \(.*\); free the disk and collect again"):
            save_dataset(study, rows)
        return
    (study.out / name).mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written \(Is a directory\); free the disk and collect again"):
        collect(study, progress_of(study, runs), print)
