"""Pictures of a fit: the law, the minima and the frontier, from fit.json alone and the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot

from fit_coverage import error_of, row_of
from recipes.study.figure_style import ON_WHITE, Chart
from recipes.study.fit_pictures import fit_pictures, law_value
from recipes.study.log_sample import Row
from recipes.study.study_file import read_study
from tests.made_up_study import made_up_study

SIZES, BUDGETS = (1e5, 3e5, 1e6, 3e6), (3e12, 6e12, 1.2e13)
VALUE = {"value": 0.35, "low": 0.3, "high": 0.4}
LAW = {"irreducible": VALUE, "factors": {"block_parameters": 25.0}, "exponents": {"block_parameters": VALUE}}
CURVE = [{"x": size, "value": error_of(size, 1e7), "low": 0.3, "high": 0.7} for size in SIZES]
HELD = {"cell": "big", "block_parameters": 3e6, "measured": 0.5, "value": 0.5, "low": 0.45, "high": 0.55, "inside": True}
ONE: dict[str, Any] = {"law": {**LAW, "curves": CURVE}, "held_out": [HELD], "isoflop": None, "level": 0.9}
TWO: dict[str, Any] = {
    "law": {
        "irreducible": {"value": 0.35},
        **{"factors": {"block_parameters": 25.0, "tokens": 250.0}, "curves": []},
        "exponents": {"block_parameters": {"value": 0.35}, "tokens": {"value": 0.45}},
    },
    **{"held_out": [{**HELD, "tokens": 1e6}], "isoflop": None, "level": 0.9},
}
MINIMA = [
    {"flops": flops, "size": 3e5 * 2**n, "low": 2e5 * 2**n, "high": 4e5 * 2**n, "value": 0.5, "why": ""} for n, flops in enumerate(BUDGETS)
]
ISOFLOP: dict[str, Any] = {"law": None, "held_out": [], "isoflop": {"minima": MINIMA, "size_exponent": VALUE}, "level": 0.9}


def size_rows() -> list[Row]:
    """Return a row for each size."""
    return [row_of(size, 1e7, error_of(size, 1e7), 1) for size in SIZES]


def budget_rows() -> list[Row]:
    """Return a row for each size and budget."""
    return [row_of(size, flops / size / 8, 0.5 + 0.01 * np.log(size / 5e5) ** 2, 1, flops) for flops in BUDGETS for size in SIZES]


def pictures(folder: Path, rows: Sequence[Row], found: dict[str, Any], **keys: Any) -> dict[str, Chart]:
    """Return the pictures of a fit, by name."""
    return {one.name: one for one in fit_pictures(read_study(made_up_study(folder, **keys)), rows, found)}


def drawn(chart: Chart) -> Any:
    """Return the axes on which a picture was drawn."""
    figure, axes = pyplot.subplots()
    try:
        chart.draw(axes, ON_WHITE)
        figure.canvas.draw()
    finally:
        pyplot.close(figure)
    return axes


def legend_of(axes: Any) -> list[str]:
    """Return the texts of the legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_law_of_one_variable_has_its_curve_its_points_and_what_was_held_out(tmp_path: Path) -> None:
    found = pictures(tmp_path, size_rows(), ONE)
    assert list(found) == ["law"]
    axes = drawn(found["law"])
    assert sorted(legend_of(axes)) == ["fitted runs", "held out", "law, 90 % interval", "predicted"]
    by_label = {line.get_label(): line for line in axes.lines}
    assert by_label["fitted runs"].get_xdata().tolist() == list(SIZES[:3])
    assert by_label["held out"].get_ydata() == [0.5] and axes.get_xlabel() == "block parameters"
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_a_law_of_two_variables_has_a_line_for_each_size(tmp_path: Path) -> None:
    rows = [row_of(size, tokens, error_of(size, tokens), 1) for size in SIZES for tokens in (1e6, 3e6)]
    axes = drawn(pictures(tmp_path, rows, TWO)["law"])
    assert legend_of(axes) == ["1e+05", "3e+05", "1e+06", "3e+06 (held out)"]
    line = axes.lines[0]
    assert line.get_ydata() == pytest.approx(error_of(1e5, np.asarray(line.get_xdata())))  # type: ignore[arg-type]


def test_the_value_of_a_law_is_that_of_its_numbers() -> None:
    assert law_value(TWO["law"], {"block_parameters": 2e5, "tokens": 3e6}) == pytest.approx(error_of(2e5, 3e6))


def test_minima_and_frontier_are_two_pictures(tmp_path: Path) -> None:
    found = pictures(tmp_path, budget_rows(), ISOFLOP)
    assert list(found) == ["isoflop", "frontier"]
    assert legend_of(drawn(found["isoflop"])) == ["3e+12", "6e+12", "1.2e+13", "minimum"]
    assert "FLOPs^0.35 (0.30 to 0.40)" in found["frontier"].caption
    assert legend_of(drawn(found["frontier"])) == ["FLOPs^0.35", "minima"] or len(legend_of(drawn(found["frontier"]))) == 2


def test_without_an_exponent_there_is_no_frontier_and_without_minima_no_picture(tmp_path: Path) -> None:
    fit = {**ISOFLOP, "isoflop": {"minima": MINIMA, "size_exponent": None}}
    assert list(pictures(tmp_path, budget_rows(), fit)) == ["isoflop"]
    assert pictures(tmp_path, budget_rows(), {**ISOFLOP, "isoflop": {"minima": [], "size_exponent": None}}) == {}


def test_a_minimum_that_cannot_be_used_is_not_drawn_and_the_legend_still_names_the_others(tmp_path: Path) -> None:
    minima = [*MINIMA[:2], {**MINIMA[2], "size": None, "low": None, "high": None, "why": "beyond"}]
    axes = drawn(pictures(tmp_path, budget_rows(), {**ISOFLOP, "isoflop": {"minima": minima, "size_exponent": None}})["isoflop"])
    assert sum(line.get_marker() == "D" for line in axes.lines) == 2 and legend_of(axes).count("minimum") == 1


def test_an_estimate_outside_of_its_interval_is_drawn(tmp_path: Path) -> None:
    """The quantiles of a bootstrap need not contain the estimate, in data without noise by the last digit."""
    drawn(pictures(tmp_path, size_rows(), {**ONE, "held_out": [{**HELD, "low": 0.51}, {**HELD, "high": 0.49}]})["law"])
    minima = [{**MINIMA[0], "low": 3.1e5}, *MINIMA[1:]]
    for chart in pictures(tmp_path, budget_rows(), {**ISOFLOP, "isoflop": {"minima": minima, "size_exponent": VALUE}}).values():
        drawn(chart)


def test_a_metric_that_cannot_be_fitted_has_no_picture(tmp_path: Path) -> None:
    assert pictures(tmp_path, size_rows(), ONE, metric="loss") == {}


def test_a_fit_without_a_law_has_no_picture(tmp_path: Path) -> None:
    assert pictures(tmp_path, size_rows(), {"law": None, "held_out": [], "isoflop": None}) == {}
