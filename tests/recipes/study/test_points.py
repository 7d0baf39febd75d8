"""Which runs are fitted, and what the law depends on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit_coverage import row_of
from recipes.errors import ConfigError
from recipes.study.log_sample import Row
from recipes.study.points import Points, group_equal, num_distinct, points_of
from recipes.study.study_file import Study, read_study
from tests.made_up_study import made_up_study

SIZES = (1e5, 2e5, 4e5, 8e5)


def study_of(folder: Path, **keys: Any) -> Study:
    """Return a made-up study with these keys."""
    return read_study(made_up_study(folder, **keys))


def rows_of_sizes(**changes: Any) -> list[Row]:
    """Return a row for each size and two seeds, with these values."""
    return [row_of(size, 1e6, 0.5, seed) | changes for size in SIZES for seed in (1, 2)]


def test_each_usable_run_is_a_point_with_the_error(tmp_path: Path) -> None:
    rows = [row_of(size, 1e6, 1e5 / size / 2, seed) for size in SIZES for seed in (1, 2)]
    points = points_of(study_of(tmp_path), rows)
    assert points.variables == ("block_parameters",) and points.quantity.name == "error (1 - probe)"
    assert points.x_NJ[:, 0].tolist() == [row["block_parameters"] for row in rows]
    assert points.y_N == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625])
    assert points.num_cells == 4 and points.cell_numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and points.left == ()


def test_cells_are_numbered_in_the_order_of_their_first_runs_even_if_their_rows_are_apart(tmp_path: Path) -> None:
    points = points_of(study_of(tmp_path), sorted(rows_of_sizes(), key=lambda row: row["seed"]))
    assert points.cell_numbers.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and points.num_cells == 4


def test_a_part_of_the_points_has_its_own_numbers(tmp_path: Path) -> None:
    points = points_of(study_of(tmp_path), rows_of_sizes())
    part = points.where(points.x_NJ[:, 0] > 3e5)
    assert isinstance(part, Points) and part.num_cells == 2 and part.cell_numbers.tolist() == [0, 0, 1, 1]
    assert part.x_NJ[:, 0].tolist() == [4e5, 4e5, 8e5, 8e5] and len(part.y_N) == len(part.rows) == 4


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "failed", "reason": "no memory"}, "failed: no memory"),
        ({"state": "queued"}, "queued"),
        ({"state": "running"}, "running"),
        ({"problem": "probe is missing"}, "probe is missing"),
        ({"metric": None}, "has no value of the metric"),
        ({"metric": 1.0}, "is 0, and its logarithm is fitted"),
        ({"metric": 1.5}, "is -0.5, and its logarithm is fitted"),
        ({"metric": float("nan")}, "is nan, and its logarithm is fitted"),
        ({"metric": float("-inf")}, "is inf"),
        ({"metric": float("inf")}, "is -inf"),
    ],
)
def test_a_run_that_cannot_be_fitted_is_left_out_with_the_reason(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    rows = rows_of_sizes()
    rows[3] |= changes
    points = points_of(study_of(tmp_path), rows)
    assert len(points.rows) == 7 and len(points.left) == 1
    assert (points.left[0].cell, points.left[0].seed) == (rows[3]["cell"], 2) and why in points.left[0].why


def test_a_score_of_zero_is_an_error_of_one(tmp_path: Path) -> None:
    rows = rows_of_sizes()
    rows[0]["metric"] = 0.0
    points = points_of(study_of(tmp_path), rows)
    assert points.left == () and points.y_N[0] == 1.0


def test_if_no_run_can_be_fitted_the_first_reason_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 8 runs can be fitted; 1e\+05_1e\+06 seed 1: failed: no memory"):
        points_of(study_of(tmp_path), rows_of_sizes(state="failed", reason="no memory"))


@pytest.mark.parametrize("metric", ["loss", "explained_variance", "eval_loss"])
def test_a_metric_of_the_teachers_targets_is_refused_with_the_reason(tmp_path: Path, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"metric {metric} cannot be fitted: the targets of data2vec are its teacher's.*; use probe"):
        points_of(study_of(tmp_path, metric=metric), rows_of_sizes())


def test_the_metric_of_a_probe_with_a_task_is_fitted(tmp_path: Path) -> None:
    assert points_of(study_of(tmp_path, metric="probe.cloze"), rows_of_sizes()).quantity.name == "error (1 - probe)"


def test_size_and_tokens_are_variables_if_both_vary(tmp_path: Path) -> None:
    rows = [row_of(size, tokens, 0.5, 1) for size in SIZES for tokens in (1e6, 2e6)]
    assert points_of(study_of(tmp_path), rows).variables == ("block_parameters", "tokens")


def test_tokens_alone_are_a_variable_and_rounding_of_updates_is_no_variation(tmp_path: Path) -> None:
    assert points_of(study_of(tmp_path), [row_of(1e5, tokens, 0.5, 1) for tokens in (1e6, 2e6)]).variables == ("tokens",)
    rows = [row_of(size, 1e6 + size / 1e5 * 1e3, 0.5, 1) for size in SIZES]
    assert points_of(study_of(tmp_path), rows).variables == ("block_parameters",)


def test_if_nothing_varies_the_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of block_parameters, tokens varies between the 2 runs, .*; report has the means"):
        points_of(study_of(tmp_path), [row_of(1e5, 1e6, 0.5, seed) for seed in (1, 2)])


def test_a_rate_depends_on_ranks_and_only_on_them(tmp_path: Path) -> None:
    rows = [row_of(size, 1e6, 0.5, 1) | {"ranks": ranks, "metric": 1e4 * ranks} for size in SIZES for ranks in (1, 2, 4)]
    points = points_of(study_of(tmp_path, metric="tokens_per_second"), rows)
    assert points.variables == ("ranks",) and points.y_N[:3] == pytest.approx([1e-4, 5e-5, 2.5e-5])
    assert points_of(study_of(tmp_path, metric="step_seconds"), rows).y_N[0] == 1e4
    same = [row | {"ranks": 1} for row in rows]
    with pytest.raises(ConfigError, match="none of ranks varies between the 12 runs"):
        points_of(study_of(tmp_path, metric="step_seconds"), same)


def test_a_rate_of_zero_is_left_out(tmp_path: Path) -> None:
    rows = [row_of(1e5, 1e6, 0.5, 1) | {"ranks": ranks, "metric": 1e4 * (ranks - 1)} for ranks in (1, 2, 4)]
    assert len(points_of(study_of(tmp_path, metric="tokens_per_second"), rows).left) == 1


def test_where_chooses_rows_by_the_values_of_axes(tmp_path: Path) -> None:
    rows = [row | {"axis.ds": name} for name in ("a", "b") for row in rows_of_sizes()]
    points = points_of(study_of(tmp_path, fit={"where": {"ds": "b"}}), rows)
    assert {row["axis.ds"] for row in points.rows} == {"b"} and len(points.rows) == 8 and points.left == ()


def test_where_with_a_value_that_no_run_has_is_refused_with_the_values(tmp_path: Path) -> None:
    rows = [row | {"axis.flops": 3e12} for row in rows_of_sizes()]
    with pytest.raises(ConfigError, match=r"fit: where: no run has \{'flops': 1\}; flops has \['3000000000000.0'\]"):
        points_of(study_of(tmp_path, fit={"where": {"flops": 1}}), rows)


def test_values_that_differ_by_rounding_count_once() -> None:
    assert num_distinct([1.0, 1.01, 2.0, 2.0, 4.0]) == 3 and num_distinct([5.0]) == 1


def test_rows_that_differ_by_rounding_are_equal() -> None:
    x_NJ = np.array([[1e5, 1e6], [1e5, 1.01e6], [1e5, 1.1e6], [1.001e5, 1e6]])
    assert group_equal(x_NJ).tolist() == [0, 0, 2, 0]
