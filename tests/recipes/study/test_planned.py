"""Plans with rates of the study's own runs, on made-up logs."""

from pathlib import Path
from typing import Any

import pytest

from recipes.study.command import open_study
from recipes.study.planned import MEASURE, MEMORY, STEP, add_plans
from recipes.study.progress import progress_of
from recipes.study.results_table import collect_run
from tests.made_up_study import made_up_run, made_up_study


def planned(folder: Path, how: dict[int, dict[str, Any]], **keys: Any) -> tuple[str, list[dict[str, Any]]]:
    """Return the line and the rows of a study. `how`: number of a run -> how it is made up; the others are queued."""
    study, _, runs = open_study(made_up_study(folder, **keys))
    for number, run in enumerate(runs):
        if number in how:
            made_up_run(run, **{"score": 0.3, **how[number]})
    progress = progress_of(study, runs)
    rows = [collect_run(study, one).row for one in progress]
    return add_plans(study, progress, rows), rows


WIDTHS = {"model.hidden_size": [32, 64, 128]}


def test_the_smallest_and_the_largest_run_are_the_measures_and_have_the_times_that_they_measured(tmp_path: Path) -> None:
    line, rows = planned(tmp_path, {number: {"seconds": 0.3 * (number + 1)} for number in range(3)}, axes=WIDTHS, seeds=[1])
    assert [row[MEASURE] for row in rows] == [True, False, True]
    assert line == "plans have the rates of hidden_size-32 seed 1 and hidden_size-128 seed 1, which update in 0.3 and 0.9 s"
    assert rows[0][STEP] == pytest.approx(0.3, rel=0.01) and rows[2][STEP] == pytest.approx(0.9, rel=0.01)
    assert rows[0][STEP] < rows[1][STEP] < rows[2][STEP]
    assert all(row[MEMORY] is None for row in rows), "a CPU's memory is that of the whole process"


def test_the_median_run_stands_for_its_size(tmp_path: Path) -> None:
    seconds = [0.3, 0.1, 0.2, 0.5, 0.5, 0.5, 0.9, 0.8, 7.0]
    line, rows = planned(tmp_path, {number: {"seconds": value} for number, value in enumerate(seconds)}, axes=WIDTHS, seeds=[1, 2, 3])
    assert [number for number, row in enumerate(rows) if row[MEASURE]] == [2, 6]
    assert line.endswith("hidden_size-32 seed 3 and hidden_size-128 seed 1, which update in 0.2 and 0.9 s")


def test_runs_whose_times_contradict_the_sizes_leave_one_measure(tmp_path: Path) -> None:
    line, rows = planned(tmp_path, {number: {"seconds": 9.0 if number == 0 else 0.5} for number in range(3)}, axes=WIDTHS, seeds=[1])
    assert line.startswith("plans have the rates of hidden_size-64 seed 1, which update in 0.5 s (not of two runs: ")
    assert [row[MEASURE] for row in rows] == [0, 1, 0]


def test_measures_have_one_precision(tmp_path: Path) -> None:
    axes = {"model.hidden_size": [32, 64, 128], "deepspeed_config": ["zero3_cpu_bf16", "zero3_cpu"]}
    line, rows = planned(tmp_path, {number: {"seconds": 0.3 * (1 + number // 2)} for number in range(6)}, axes=axes, seeds=[1])
    assert [row["cell"] for row in rows if row[MEASURE]] == [f"hidden_size-{size}_deepspeed_config-zero3_cpu_bf16" for size in (32, 128)]
    assert all(row[STEP] for row in rows), line


def test_runs_that_are_not_done_have_plans_and_are_no_measure(tmp_path: Path) -> None:
    line, rows = planned(tmp_path, {0: {"ended": "failed", "seconds": 9.0}, 1: {"seconds": 0.5}, 2: {"ended": "running"}})
    assert line.startswith("plans have the rates of hidden_size-32_max_steps-20 seed 2")
    assert [row[MEASURE] for row in rows] == [False, True] + [False] * 6 and all(row[STEP] > 0 for row in rows)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({}, "no plans: no run is done"),
        ({0: {"ended": "failed"}}, "no plans: no run is done"),
        ({0: {"rows": 2}}, "with 1 measured rows behind the first; 3 are needed"),
        ({0: {"rows": 0}}, "no plans: no run is done"),
    ],
)
def test_without_a_measure_there_are_no_plans(how: dict[int, dict[str, Any]], part: str, tmp_path: Path) -> None:
    line, rows = planned(tmp_path, how)
    assert line.startswith("no plans: ") and part in line
    assert all((row[STEP], row[MEMORY], row[MEASURE]) == (None, None, False) for row in rows)


def test_the_measure_is_one_of_the_runs_with_the_fewest_ranks(tmp_path: Path) -> None:
    line, rows = planned(tmp_path, {number: {"seconds": 0.5} for number in range(3)}, axes={"ranks": [4, 2, 1]}, seeds=[1])
    assert line.startswith("plans have the rates of ranks-1 seed 1") and rows[2][MEASURE] and all(row[STEP] for row in rows)


def test_the_memory_of_a_gpu_is_planned_without_a_measure(tmp_path: Path) -> None:
    _, rows = planned(tmp_path, {}, axes=WIDTHS, seeds=[1], cluster="nodes=1,gpus=1,device=h100")
    assert 0 < rows[0][MEMORY] < rows[1][MEMORY] < rows[2][MEMORY] and all(row[STEP] is None for row in rows)
