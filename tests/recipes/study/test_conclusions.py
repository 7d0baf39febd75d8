"""Sentences on what a study shows follow from its numbers."""

from pathlib import Path
from typing import Any

import pytest

from fit_coverage import row_of
from recipes.study.conclusions import conclusions
from recipes.study.log_sample import Row
from recipes.study.study_file import Study, read_study
from tests.made_up_study import made_up_study

EXPONENT = {"value": 0.35, "low": 0.3, "high": 0.4}
HELD = {"cell": "big", "block_parameters": 1e7, "measured": 0.4, "value": 0.41, "low": 0.39, "high": 0.43, "inside": True}
LAW = {"exponents": {"block_parameters": EXPONENT}, "has_irreducible": True, "irreducible": {"value": 0.2, "low": 0.1, "high": 0.3}}
FIT: dict[str, Any] = {
    **{"quantity": "error (1 - probe)", "variables": ["block_parameters"], "law": LAW, "held_out": [HELD], "isoflop": None},
    **{"tests": [{"name": "effect", "of": ["law"], "passed": True, "detail": "clear"}], "supported": ["law"], "level": 0.9},
}
FAILED = {**FIT, "tests": [{"name": "effect", "of": ["law"], "passed": False, "detail": "a constant is as good"}], "supported": []}


def study_of(folder: Path, **keys: Any) -> Study:
    """Return a made-up study with these keys."""
    return read_study(made_up_study(folder, **keys))


def row(size: float = 1e5, seed: int = 1, **changes: Any) -> Row:
    """Return a row of a done run with a score of 0.5, random 0.25, and these values."""
    return row_of(size, 1e6, 0.5, seed) | {"random_init": 0.25, "tokens_per_second": 1000.0} | changes


def said(folder: Path, rows: list[Row], fit: dict[str, Any] | None = None, **keys: Any) -> tuple[str, str]:
    """Return what can and what cannot be concluded, each as one text."""
    can, cannot = conclusions(study_of(folder, **keys), rows, fit)
    return "\n".join(can), "\n".join(cannot)


def test_runs_with_and_without_a_value_are_counted(tmp_path: Path) -> None:
    rows = [row(), row(seed=2), row(state="failed", metric=None), row(state="queued", metric=None), row(problem="lost", metric=None)]
    can, cannot = said(tmp_path, rows)
    assert "2 of 5 runs have a value of probe." in can and "3 runs are missing from every statement (1 failed, 1 queued)." in cannot
    assert "missing" not in said(tmp_path, rows[:2])[1]


def test_one_missing_run_is_singular(tmp_path: Path) -> None:
    assert "1 run is missing from every statement (1 failed)." in said(tmp_path, [row(), row(state="failed", metric=None)])[1]


def test_the_factor_over_random_initialisation_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = [row(), row(seed=2, metric=0.2)]
    assert "1 of 2 runs score above the same network at random initialisation; the mean factor is 1.40." in said(tmp_path, rows)[0]
    assert "2 of 2 runs score above" in said(tmp_path, [rows[0], rows[1] | {"metric": 0.3}])[0]
    assert "random" not in said(tmp_path, [row(random_init=None)])[0]


def test_runs_that_are_not_done_are_missing_from_the_comparison_with_random_initialisation_too(tmp_path: Path) -> None:
    rows = [row(), row(seed=2, state="running", metric=0.1), row(seed=3, state="failed", metric=0.1)]
    assert "1 of 1 runs" in said(tmp_path, rows)[0].splitlines()[1]


@pytest.mark.parametrize("metric", ["tokens_per_second", "loss", "explained_variance"])
def test_a_metric_that_is_no_probe_is_not_compared_with_the_probe_at_random_initialisation(tmp_path: Path, metric: str) -> None:
    assert "random" not in said(tmp_path, [row(metric=5000.0)], metric=metric)[0]


def test_the_efficiency_is_that_of_the_fewest_and_the_most_ranks(tmp_path: Path) -> None:
    rows = [row(ranks=ranks, tokens_per_second=rate) for ranks, rate in ((1, 1000.0), (2, 1900.0), (4, 3000.0))]
    assert "4 ranks train 3.00 times as many tokens a second as 1: 75 % of ideal scaling." in said(tmp_path, rows)[0]
    rows[2]["tokens_per_second"] = 2000.0
    assert "2.00 times as many tokens a second as 1: 50 %" in said(tmp_path, rows)[0]
    assert "ranks train" not in said(tmp_path, rows[:1])[0]
    assert "as 1: 95 %" in said(tmp_path, [*rows[:2], rows[2] | {"state": "failed"}])[0]


def test_a_supported_law_and_its_prediction_are_conclusions(tmp_path: Path) -> None:
    can, cannot = said(tmp_path, [row()], FIT)
    assert "The error (1 - probe) falls with block parameters to the power of -0.35" in can and "down to 0.2 (0.1 to 0.3)" in can
    assert "predicts 1 of 1 cells of the largest block parameters within 90 % intervals" in can
    assert "Beyond the largest size" in cannot and "missed" not in cannot


def test_the_interval_of_a_negative_power_is_negative_too(tmp_path: Path) -> None:
    assert "to the power of -0.35 (-0.4 to -0.3)" in said(tmp_path, [row()], FIT)[0]


def test_a_missed_prediction_is_no_success(tmp_path: Path) -> None:
    fit = {**FIT, "held_out": [HELD, {**HELD, "cell": "bigger", "measured": 0.5, "inside": False}]}
    can, cannot = said(tmp_path, [row()], fit)
    assert "predicts 1 of 2 cells" in can and "bigger was missed: predicted 0.41 (0.39 to 0.43), measured 0.5." in cannot


def test_a_law_that_fails_a_test_is_claimed_nowhere(tmp_path: Path) -> None:
    can, cannot = said(tmp_path, [row()], FAILED)
    assert "falls with" not in can and "it predicts" not in can
    assert "The data fail the test “effect”: a constant is as good. So no law is claimed." in cannot


def test_without_a_fit_nothing_is_said_about_other_sizes(tmp_path: Path) -> None:
    assert "Nothing was fitted" in said(tmp_path, [row()])[1] and "Nothing was fitted" not in said(tmp_path, [row()], FIT)[1]


def test_a_frontier_is_a_conclusion_and_a_minimum_that_cannot_be_used_is_none(tmp_path: Path) -> None:
    minima = [{"flops": 3e12, "why": "the minimum may be beyond"}, {"flops": 6e12, "why": ""}]
    isoflop = {"minima": minima, "size_exponent": EXPONENT, "tokens_exponent": {"value": 0.65, "low": 0.6, "high": 0.7}}
    can, cannot = said(tmp_path, [row()], {**FIT, "isoflop": isoflop, "supported": ["law", "frontier"]})
    assert "grows with FLOPs to the power of 0.35 (0.3 to 0.4), and the tokens with 0.65 (0.6 to 0.7)" in can
    assert "The best size for 3e+12 FLOPs: the minimum may be beyond." in cannot and "6e+12" not in cannot
    assert "best size" not in said(tmp_path, [row()], {**FIT, "isoflop": {**isoflop, "minima": [], "size_exponent": None}})[0]


def test_few_seeds_are_a_warning_in_the_right_number(tmp_path: Path) -> None:
    assert "2 seeds a cell say little" in said(tmp_path, [row()], seeds=[1, 2])[1]
    assert "1 seed a cell says little" in said(tmp_path, [row()], seeds=[1])[1]
    assert "seed" not in said(tmp_path, [row()], seeds=[1, 2, 3])[1]
