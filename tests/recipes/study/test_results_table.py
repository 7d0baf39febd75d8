"""The row of a run in the table, from made-up logs: what is missing or not finite is None, and no run is lost."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from recipes.study.command import open_study
from recipes.study.log_sample import finite
from recipes.study.progress import progress_of
from recipes.study.results_table import ROWS_OF_A_CURVE, collect_run, last_value, measured
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from tests.made_up_study import made_up_run, made_up_study


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Study, list[Run]]:
    study, _, runs = open_study(made_up_study(tmp_path))
    return study, runs


def row_of(study: Study, run: Run) -> dict[str, Any]:
    (progress,) = progress_of(study, [run])
    return collect_run(study, progress).row


def change_last(path: Path, **values: Any) -> None:
    *before, last = path.read_text().splitlines(keepends=True)
    row = {key: value for key, value in (json.loads(last) | values).items() if value is not ...}
    path.write_text("".join(before) + json.dumps(row) + "\n")


def test_a_run_that_is_done_has_all_its_numbers(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[1], score=0.25, seconds=0.5)
    row, cell = row_of(study, runs[1]), runs[1].cell
    assert (row["cell"], row["seed"], row["state"], row["reason"], row["problem"]) == (cell.name, 2, "done", None, None)
    assert (row["axis.hidden_size"], row["axis.max_steps"], row["updates"], row["step"]) == (32, 20, 20, 20)
    assert (row["metric"], row["probe"], row["random_init"], row["loss"]) == (0.25, 0.25, 0.05, 0.4)
    assert row["step_seconds"] == 0.5 and row["tokens_per_second"] == pytest.approx(cell.tokens / 20 / 0.5)
    assert row["flops"] == row["planned_flops"] == cell.flops and row["flops_per_token"] * cell.tokens == pytest.approx(cell.flops)
    assert row["block_parameters"] < row["trunk_parameters"] <= row["parameters"] and row["peak_memory_bytes"] == 500_000_000
    assert row["wall_seconds"] == pytest.approx(13) and row["goodput"] == pytest.approx(20 * (0.5 - 0.001) / 13)
    assert row["launches"] == 1 and json.loads(row["settings"]) == dict(cell.settings) and row["run_dir"] == str(runs[1].path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, ..., "0.3", True, [0.3]])
def test_a_metric_that_is_missing_or_no_finite_number_is_a_problem(value: Any, opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3)
    change_last(runs[0].path / "metrics.jsonl", probe=value)
    row = row_of(study, runs[0])
    assert row["state"] == "done" and row["metric"] is None
    assert row["problem"] == "probe is missing or not finite in its metrics.jsonl"
    assert row["loss"] == 0.4


@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_any_number_of_rows_is_read(rows: int, opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3, rows=rows)
    (progress,) = progress_of(study, runs[:1])
    found = collect_run(study, progress)
    assert found.row["metric"] == (0.3 if rows else None) and bool(found.row["problem"]) is not bool(rows)
    assert len(found.curve) <= ROWS_OF_A_CURVE + 1 and (not rows or found.curve[-1]["probe"] == 0.3)
    assert found.row["step_seconds"] == (0.1 if rows else None)


def test_a_run_without_logs_has_a_row(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    row = row_of(study, runs[0])
    assert (row["state"], row["metric"], row["problem"], row["flops"], row["launches"]) == ("queued", None, None, 0, 0)
    made_up_run(runs[0], score=0.3)
    (runs[0].path / "metrics.jsonl").unlink()
    row = row_of(study, runs[0])
    assert row["state"] == "done" and row["problem"] and row["loss"] is None


def test_a_run_that_is_still_writing_is_collected(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=None, ended="running")
    for name in ("metrics.jsonl", "events.jsonl"):
        text = (runs[0].path / name).read_text()
        (runs[0].path / name).write_text(text + text.splitlines()[-1][:25])
    row = row_of(study, runs[0])
    assert (row["state"], row["problem"], row["metric"], row["step"], row["loss"]) == ("running", None, None, 20, 0.4)


@pytest.mark.parametrize(("ended", "reason"), [("failed", "the loss is not finite"), ("stopped", "stopped by SIGTERM")])
def test_a_run_that_is_not_done_has_its_reason(ended: str, reason: str, opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3, ended=ended)
    row = row_of(study, runs[0])
    assert (row["state"], row["reason"], row["problem"], row["metric"]) == (ended, reason, None, 0.3)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "start"}',
        '{"time": "x", "event": "start"}',
        '{"time": 1, "event": null}',
        "{}",
        "[]",
        "{",
        '{"time": 1e999, "event": "save"}',
    ],
)
def test_a_damaged_event_loses_no_run(line: str, opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3)
    path = runs[0].path / "events.jsonl"
    path.write_text(line + "\n" + path.read_text())
    assert (row_of(study, runs[0])["state"], row_of(study, runs[0])["metric"]) == ("done", 0.3)


@pytest.mark.parametrize("values", [{"step": None}, {"step": "x"}, {"step_seconds": None}, {"step_seconds": math.nan}, {"loss": math.nan}])
def test_a_damaged_row_loses_no_run(values: dict[str, Any], opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3)
    change_last(runs[0].path / "metrics.jsonl", **values)
    row = row_of(study, runs[0])
    assert (row["state"], row["metric"]) == ("done", 0.3)
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in row.values())


def test_another_metric_is_found_in_any_row(tmp_path: Path) -> None:
    study, _, runs = open_study(made_up_study(tmp_path, metric="ema_decay"))
    made_up_run(runs[0], score=None)
    change_last(runs[0].path / "metrics.jsonl", ema_decay=0.99)
    assert row_of(study, runs[0])["metric"] == 0.99


def test_rates_are_medians_without_the_first_row_and_memory_is_the_largest() -> None:
    rows = [{"step_seconds": seconds, "peak_memory_bytes": memory, "loss": 1} for seconds, memory in [(100, 1), (1, 9), (3, 2), (2, 3)]]
    found = measured(rows)
    assert (found["step_seconds"], found["peak_memory_bytes"], found["loss"]) == (2, 9, 1)
    assert measured(rows[:1])["step_seconds"] == 100 and measured([])["step_seconds"] is None


def test_the_last_value_is_that_of_the_last_row_that_has_one() -> None:
    assert last_value([{"a": 1}, {"a": 2}, {"a": None}, {}], "a") == 2
    assert last_value([{"a": 1}, {"a": math.nan}], "a") is None and last_value([], "a") is None
    assert [finite(value) for value in (1, 0.5, True, "1", None, math.inf)] == [1, 0.5, None, None, None, None]


def test_results_of_later_commands_are_columns(opened: tuple[Study, list[Run]]) -> None:
    study, runs = opened
    made_up_run(runs[0], score=0.3)
    (runs[0].path / "results.json").write_text("{damaged")
    assert row_of(study, runs[0])["state"] == "done"
