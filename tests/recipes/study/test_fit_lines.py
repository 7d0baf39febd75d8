"""The content of fit.json as lines."""

from typing import Any

from recipes.study.fit_lines import SHOWN, fit_lines, held_out_line
from recipes.study.wording import in_words

EXPONENT = {"value": 0.35, "low": 0.3, "high": 0.4}
FIT: dict[str, Any] = {
    **{"quantity": "error (1 - probe)", "num_runs": 16, "num_cells": 8, "variables": ["block_parameters"], "left": []},
    "law": {
        "formula": "E + A * x^-a",
        "has_irreducible": True,
        "irreducible": {"value": 0.3512345, "low": 0.3, "high": 0.36},
        **{"exponents": {"block_parameters": EXPONENT}, "factors": {"block_parameters": 25.0}, "residual_scale": 0.0123, "curves": []},
    },
    "level": 0.9,
    "options": {},
    "held_out": [{"cell": "a_1", "block_parameters": 1e7, "measured": 0.4, "value": 0.41, "low": 0.39, "high": 0.43, "inside": True}],
    "isoflop": None,
    "tests": [{"name": "points", "passed": True, "detail": "8 cells"}, {"name": "effect", "passed": False, "detail": "a constant"}],
}
GRID = {"smallest": 1e5, "largest": 1e6}
MINIMUM = {**GRID, "flops": 3e12, "size": 3e5, "low": 2e5, "high": 4e5, "value": 0.5, "tokens": 1.25e6, "why": ""}
BEYOND = {**MINIMUM, "flops": 6e12, "low": 0.0, "high": None, "why": "the minimum may be beyond"}


def with_isoflop(minima: list[dict[str, Any]], exponent: dict[str, float] | None) -> list[str]:
    """Return the lines of a fit with these minima."""
    exponents = dict.fromkeys(("size_exponent", "tokens_exponent", "value_exponent"), exponent)
    return list(fit_lines({**FIT, "law": None, "held_out": [], "tests": [], "isoflop": {"minima": minima, **exponents, "why": ""}}))


def test_the_law_its_prediction_and_each_test_have_a_line() -> None:
    assert list(fit_lines(FIT)) == [
        "error (1 - probe) of 16 runs in 8 cells, over block_parameters",
        "law: E + A * x^-a, E = 0.3512 (0.3 to 0.36)",
        "  block_parameters: exponent 0.35 (0.3 to 0.4), factor 25",
        "  residuals: 1.2 % (robust standard deviation)",
        "held out: a_1: predicted 0.41 (0.39 to 0.43), measured 0.4, inside the 90 % interval",
        "test points: passed, 8 cells",
        "test effect: FAILED, a constant",
    ]


def test_a_fit_without_a_law_shows_its_tests() -> None:
    lines = list(fit_lines({**FIT, "law": None, "held_out": [], "variables": ["a", "b"]}))
    assert lines[0].endswith("over a and b") and len(lines) == 3


def test_the_first_runs_that_are_left_out_are_named_and_the_others_counted() -> None:
    left = [{"cell": f"c{number}", "seed": 1, "why": "failed: no memory"} for number in range(SHOWN + 2)]
    lines = [line for line in fit_lines({**FIT, "left": left}) if line.startswith("not fitted")]
    assert lines[0] == "not fitted: c0 seed 1, failed: no memory"
    assert len(lines) == SHOWN + 1 and lines[-1] == "not fitted: 2 more"
    assert not any("more" in line for line in fit_lines({**FIT, "left": left[:SHOWN]}))


def test_minima_show_their_interval_or_why_they_cannot_be_used() -> None:
    lines = with_isoflop([MINIMUM, BEYOND], EXPONENT)
    assert lines[1] == "at 3e+12 FLOPs the best size is 3e+05 (2e+05 to 4e+05), 1.25e+06 tokens, at the minimum 0.5"
    assert lines[2] == "at 6e+12 FLOPs the best size is 3e+05 (below 1e+05 to above 1e+06); the minimum may be beyond"
    assert lines[3].startswith("frontier: the best size grows with FLOPs^0.35 (0.3 to 0.4), the tokens with FLOPs^0.35")


def test_without_an_exponent_there_is_no_frontier() -> None:
    assert not any(line.startswith("frontier") for line in with_isoflop([BEYOND], None))


def test_a_best_size_outside_of_the_grid_is_shown_as_such() -> None:
    assert "the best size is above 1e+06 (" in with_isoflop([{**BEYOND, "size": None}], None)[1]
    assert "the best size is below 1e+05 (" in with_isoflop([{**BEYOND, "size": 0.0}], None)[1]


def test_a_law_without_held_out_runs_has_the_reason() -> None:
    line = "nothing is held out: more than half of the runs have the largest size"
    assert line in list(fit_lines({**FIT, "held_out": []}))
    assert line not in list(fit_lines({**FIT, "held_out": [], "options": {"held_out": False}})), "that is what was asked for"


def test_a_miss_stands_out() -> None:
    assert held_out_line({**FIT["held_out"][0], "inside": False}, 0.9).endswith("measured 0.4, OUTSIDE the 90 % interval")
    assert in_words({"value": 123456.7, "low": 1.0, "high": 2.0}) == "1.235e+05 (1 to 2)"


def test_one_run_in_one_cell_is_singular() -> None:
    assert next(iter(fit_lines({**FIT, "num_runs": 1, "num_cells": 1}))).startswith("error (1 - probe) of 1 run in 1 cell, over")
