"""The verb fit: the tests that data must pass, what is held out, and a fit.json that any JSON parser reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from fit_coverage import error_of, row_of
from recipes.errors import ConfigError
from recipes.study import bootstrap, isoflop
from recipes.study.collect import TABLE, _parquet, _write
from recipes.study.command import build_parser
from recipes.study.fit import FIT, Fit, fit_rows, fit_study, formula, held_out, read_fit
from recipes.study.log_sample import Row
from recipes.study.points import points_of
from recipes.study.study_file import Study, read_study
from recipes.study.wording import in_number
from tests.made_up_study import made_up_study

SIZES, TOKENS = np.geomspace(1e5, 3.2e6, 6), np.geomspace(2e6, 1.6e7, 4)
BUDGETS = [3e12, 6e12, 1.2e13]


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer repetitions, for seconds."""
    monkeypatch.setattr(bootstrap, "REPETITIONS", 30)
    monkeypatch.setattr(isoflop, "REPETITIONS", 30)


def study_of(folder: Path, **keys: Any) -> Study:
    """Return a made-up study whose folder exists."""
    study = read_study(made_up_study(folder, **keys))
    study.out.mkdir(parents=True, exist_ok=True)
    return study


def size_rows(error: Callable[[float], float] = lambda size: error_of(size, 1e7), noise: float = 0.002, num_sizes: int = 8) -> list[Row]:
    """Return rows of a study of the size alone, two seeds a cell."""
    rng = np.random.default_rng(0)
    return [
        row_of(size, 1e7, error(size) * np.exp(noise * rng.standard_normal()), seed)
        for size in np.geomspace(1e5, 1e7, num_sizes)
        for seed in (1, 2)
    ]


def isoflop_rows(curvature: float, best: float) -> list[Row]:
    """Return rows without noise at three budgets, with a parabola of this curvature around this size at each."""
    rows = []
    for flops in BUDGETS:
        for size in np.geomspace(6e4, 4e6, 5):
            error = 0.5 * (flops / 3e12) ** -0.1 * np.exp(curvature * np.log(size / best) ** 2)
            rows.append(row_of(size, flops / size / 8, error, 1, flops))
    return rows


def refused_by(fit: Fit) -> str:
    """Return the name of the only failed test, and its detail."""
    assert len(fit.failed) == 1 and fit.law is None and not fit.to_json()["supported"], fit.tests
    return f"{fit.failed[0]['name']}: {fit.failed[0]['detail']}"


def strictly_read(path: Path) -> Any:
    """Return the content of a JSON file. Raises: ValueError if it has NaN or Infinity, which are no JSON."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{path} holds {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_law_of_the_size_is_found_and_predicts_the_largest_size(tmp_path: Path) -> None:
    study, rows = study_of(tmp_path), size_rows()
    fit = fit_study(study, rows)
    assert not fit.failed and fit.law and fit.variables == ("block_parameters",)
    assert fit.law["exponents"]["block_parameters"]["value"] == pytest.approx(0.35, rel=0.2)
    assert [(one["cell"], one["block_parameters"], one["inside"]) for one in fit.held_out] == [(rows[-1]["cell"], 1e7, True)]
    assert fit.law["curves"][-1]["x"] == pytest.approx(1.5e7) and fit.law["curves"][0]["x"] == pytest.approx(1e5)
    assert all(one["low"] <= one["value"] <= one["high"] for one in fit.law["curves"])
    assert strictly_read(study.out / FIT) == read_fit(study) == json.loads(json.dumps(fit.to_json()))
    assert fit.num_runs == 16 and fit.num_cells == 8 and fit.to_json()["supported"]


def test_a_measurement_that_the_law_misses_is_outside_of_its_interval(tmp_path: Path) -> None:
    rows = size_rows()
    for row in rows[-2:]:
        row["metric"] -= 0.2
    (found,) = fit_rows(study_of(tmp_path), rows).held_out
    assert not found["inside"] and found["measured"] > found["high"]


def test_a_law_of_size_and_tokens_is_found(tmp_path: Path) -> None:
    rows = [row_of(size, tokens, error_of(size, tokens), 1) for size in SIZES for tokens in TOKENS]
    fit = fit_rows(study_of(tmp_path), rows)
    assert not fit.failed and fit.law and fit.law["curves"] == [] and fit.isoflop is None
    assert {name: one["value"] for name, one in fit.law["exponents"].items()} == pytest.approx(
        {"block_parameters": 0.35, "tokens": 0.45}, rel=1e-3
    )
    assert [one["block_parameters"] for one in fit.held_out] == [SIZES[-1]] * 4


def test_the_same_rows_give_the_same_fit(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert fit_rows(study, size_rows()).to_json() == fit_rows(study, size_rows()).to_json()


@pytest.mark.parametrize("num_sizes", [2, 3, 5])
def test_fewer_cells_than_parameters_and_two_more_are_refused(tmp_path: Path, num_sizes: int) -> None:
    reason = refused_by(fit_rows(study_of(tmp_path), size_rows(num_sizes=num_sizes)))
    cells, values = in_number(num_sizes - 1, "cell"), in_number(num_sizes - 1, "value")
    assert f"points: {cells} without those held out, {values} of block_parameters; needed are 5 cells" in reason


def test_many_cells_at_two_values_are_refused(tmp_path: Path) -> None:
    rows = [row_of(size, tokens, error_of(size, tokens), 1) for size in SIZES for tokens in TOKENS[:2]]
    assert "10 cells without those held out, 5 values of block_parameters, 2 values of tokens" in refused_by(
        fit_rows(study_of(tmp_path), rows)
    )


def test_size_and_tokens_that_change_together_are_refused(tmp_path: Path) -> None:
    rows = [row_of(size, 20 * size, error_of(size, 20 * size), 1) for size in np.geomspace(1e5, 1e7, 9)]
    reason = refused_by(fit_rows(study_of(tmp_path), rows))
    assert reason == "variables apart: the correlation of the logarithms of block_parameters and tokens is 1.000, at most 0.98"


def test_two_cells_at_one_place_are_refused_with_their_names(tmp_path: Path) -> None:
    rows = size_rows()
    reason = refused_by(fit_rows(study_of(tmp_path), [*rows, rows[4] | {"cell": "same_size"}]))
    assert reason == f"one cell at a place: {rows[4]['cell']} and same_size have the same block_parameters; choose by fit.where"


def test_errors_without_an_effect_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = size_rows(lambda size: float(0.6 * np.exp(0.05 * rng.standard_normal())))
    reason = refused_by(fit_rows(study_of(tmp_path), rows))
    assert reason.startswith("effect: a constant is as good with a probability of 0.") and reason.endswith("at most 0.01")


def test_errors_that_grow_with_the_size_are_refused(tmp_path: Path) -> None:
    assert refused_by(fit_rows(study_of(tmp_path), size_rows(lambda size: 0.01 * size**0.2))).startswith("effect: ")


def test_the_largest_size_is_held_out_unless_the_file_says_no_or_it_is_most_of_the_runs(tmp_path: Path) -> None:
    study, rows = study_of(tmp_path), size_rows()
    held_N = held_out(study, points_of(study, rows))
    assert np.flatnonzero(held_N).tolist() == [14, 15]
    without = study_of(tmp_path, fit={"held_out": False})
    assert not held_out(without, points_of(without, rows)).any()
    assert not held_out(study, points_of(study, [*rows[:2], *(rows[-1] | {"seed": seed} for seed in range(3))])).any(), "more than half"


def test_without_held_out_runs_all_are_fitted_and_nothing_is_predicted(tmp_path: Path) -> None:
    fit = fit_rows(study_of(tmp_path, fit={"held_out": False}), size_rows())
    assert fit.held_out == [] and fit.law and "8 cells without those held out" in fit.tests[1]["detail"]


def test_where_fits_a_part_of_the_rows(tmp_path: Path) -> None:
    rows = size_rows() + size_rows(lambda size: error_of(size, 1e7) + 0.2)
    rows = [row | {"axis.kind": kind, "cell": f"{kind}_{row['cell']}"} for kind, row in zip("a" * 16 + "b" * 16, rows, strict=True)]
    fit = fit_rows(study_of(tmp_path, fit={"where": {"kind": "b"}}), rows)
    assert fit.num_runs == 16 and fit.law and fit.held_out[0]["measured"] == pytest.approx(error_of(1e7, 1e7) + 0.2, rel=0.02)
    assert refused_by(fit_rows(study_of(tmp_path), rows)).startswith("one cell at a place"), "without it both kinds are at each size"


def test_runs_that_failed_are_missing_or_not_finite_are_listed_and_change_nothing_else(tmp_path: Path) -> None:
    study, rows = study_of(tmp_path), size_rows()
    bad = [rows[0] | {"cell": "bad", "state": "failed", "reason": "no memory"}, rows[0] | {"cell": "lost", "state": "queued"}]
    bad += [rows[0] | {"cell": "nan", "metric": None, "problem": "probe is not finite"}, rows[0] | {"cell": "nan2", "metric": float("nan")}]
    clean, fit = fit_rows(study, rows), fit_study(study, [*bad, *rows])
    assert [one["cell"] for one in fit.left] == ["bad", "lost", "nan", "nan2"] and fit.left[0]["why"] == "failed: no memory"
    assert fit.law == clean.law and fit.held_out == clean.held_out
    strictly_read(study.out / FIT)


@pytest.mark.parametrize(("curvature", "best"), [(-0.02, 1e4), (0.02, 1e7)])
def test_fit_json_is_json_when_a_minimum_is_infinitely_far_or_beyond_the_grid(tmp_path: Path, curvature: float, best: float) -> None:
    """A hill falls to the right without an end."""
    study = study_of(tmp_path, axes={"model.hidden_size": [64], "flops": BUDGETS})
    rows = isoflop_rows(curvature, best)
    fit = fit_study(study, rows)
    assert fit.isoflop and len(fit.isoflop["minima"]) == 3 and "at the largest size or beyond" in fit.isoflop["why"]
    content = strictly_read(study.out / FIT)
    assert "frontier" not in content["supported"] and content["isoflop"]["size_exponent"] is None


def test_two_cells_at_a_place_support_neither_law_nor_frontier(tmp_path: Path) -> None:
    study = study_of(tmp_path, axes={"model.hidden_size": [64], "flops": BUDGETS})
    rows = isoflop_rows(0.03, 6e5)
    fit = fit_rows(study, [*rows, rows[0] | {"cell": "same place"}])
    assert fit.law is None and fit.isoflop is None and fit.to_json()["supported"] == []
    assert [test["of"] for test in fit.failed] == [["law", "frontier"]] and fit.failed[0]["name"] == "one cell at a place"


def test_a_rate_of_a_study_with_budgets_has_no_minima(tmp_path: Path) -> None:
    study = study_of(tmp_path, metric="tokens_per_second", axes={"ranks": [1, 2], "flops": BUDGETS})
    rows = [
        row_of(1e5, 1e6, 0.5, 1, 3e12) | {"ranks": ranks, "cell": str(ranks), "metric": 1e4 * ranks**0.9} for ranks in (1, 2, 4, 8, 16, 32)
    ]
    fit = fit_rows(study, rows)
    assert fit.isoflop is None and fit.variables == ("ranks",) and fit.held_out[0]["ranks"] == 32


def test_the_verb_names_the_failed_tests_with_exit_code_2_after_it_has_written_fit_json(tmp_path: Path) -> None:
    """No effect, a table as collect writes it, and the verb as the command line calls it."""
    study, said = study_of(tmp_path), list[str]()
    _write(study.out / TABLE, _parquet(size_rows(num_sizes=3)))
    args = build_parser("").parse_args(["fit", str(study.path)])
    with pytest.raises(
        ConfigError, match=r"fit\.json: the data support no law \(points: 2 cells .*\); report has what they do show"
    ) as caught:
        args.run(args, said.append)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert [test["passed"] for test in strictly_read(study.out / FIT)["tests"]] == [True, False]
    assert any(line.startswith("test points: FAILED") for line in said) and said[-1] == f"written to {study.out / FIT}"


def test_without_a_table_the_verb_names_collect(tmp_path: Path) -> None:
    args = build_parser("").parse_args(["fit", str(study_of(tmp_path).path)])
    with pytest.raises(ConfigError, match=r"there is no .*table\.parquet; first: .* collect"):
        args.run(args, print)


def test_a_fit_json_that_cannot_be_written_is_an_error_that_the_user_can_fix(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    (study.out / FIT / "in the way").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"fit\.json.* cannot be written"):
        fit_study(study, size_rows(num_sizes=3))


def test_a_fit_json_that_is_damaged_or_missing_is_none_so_that_report_fits_again(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert read_fit(study) is None
    for content in ('{"law": ', "[]", "{}"):
        (study.out / FIT).write_text(content)
        assert read_fit(study) is None


def test_the_formula_has_a_term_for_each_variable() -> None:
    assert formula(["ranks"]) == "E + A_ranks * ranks^-a_ranks"
    assert formula(["a", "b"]) == "E + A_a * a^-a_a + A_b * b^-a_b"
