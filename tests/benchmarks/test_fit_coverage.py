"""The benchmark of the fit: made-up studies follow their law, and a few trials count what it says."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fit_coverage import CASES, SEEDS, SIZES, TOKENS, error_of, known_law, main, minimum_inside, no_law, outcomes, row_of
from recipes.study import bootstrap, isoflop
from recipes.study.fit import Fit

EXPONENT = {"value": 0.35, "low": 0.3, "high": 0.4}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> None:
    """Run the command with these flags and few repetitions of the bootstrap."""
    monkeypatch.setattr(bootstrap, "REPETITIONS", 20)
    monkeypatch.setattr(isoflop, "REPETITIONS", 20)
    monkeypatch.setattr(sys, "argv", ["fit_coverage.py", *flags])
    main()


def test_trials_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, tmp_path, "--trials", "2", "--cases", "known law of size", "--json")
    counts = json.loads(capsys.readouterr().out)["known law of size"]
    assert counts["exponent of block_parameters inside"] == 2 or counts["refused"] > 0
    assert set(counts) <= {"exponent of block_parameters inside", "held-out largest inside", "refused", "refused by interval"}


def test_lines_without_json_have_the_number_of_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path, "--trials", "1", "--cases", "no law")
    assert capsys.readouterr().out == "no law: {'refused': 1, 'refused by effect': 1} of 1\n"


def test_rows_without_noise_follow_the_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fit_coverage.NOISE", 0.0)
    _, rows = known_law(np.random.default_rng(0), tmp_path)
    assert len(rows) == len(SIZES) * len(TOKENS) * len(SEEDS)
    assert all(1 - row["metric"] == pytest.approx(error_of(row["block_parameters"], row["tokens"])) for row in rows)


def test_seeds_of_a_cell_share_its_name_and_cells_do_not(tmp_path: Path) -> None:
    for make in (known_law, no_law, minimum_inside):
        _, rows = make(np.random.default_rng(0), tmp_path)
        assert len({row["cell"] for row in rows}) * len(SEEDS) == len(rows) == len({(row["cell"], row["seed"]) for row in rows})


def test_a_row_has_the_error_and_the_budget() -> None:
    row = row_of(1e5, 2e6, 0.4, 3, 1e12)
    assert (row["metric"], row["budget_flops"], row["seed"], row["state"]) == (0.6, 1e12, 3, "done")


def test_outcomes_compare_intervals_with_the_true_law() -> None:
    fit = Fit("a", "probe", law={"exponents": {"block_parameters": EXPONENT, "tokens": EXPONENT}}, held_out=[{"inside": False}])
    assert list(outcomes("known law of size and tokens", fit)) == ["exponent of block_parameters inside"]
    wide = Fit("a", "probe", isoflop={"size_exponent": EXPONENT | {"high": 0.6}, "tokens_exponent": EXPONENT})
    assert list(outcomes("minimum inside", wide)) == ["frontier exponent of size inside"]
    other = Fit("a", "probe", isoflop={"size_exponent": EXPONENT, "tokens_exponent": EXPONENT | {"high": 0.6}})
    assert list(outcomes("minimum inside", other)) == ["frontier exponent of tokens inside"]
    fit.test("effect", False, "")
    assert list(outcomes("known law of size", fit)) == ["refused", "refused by effect"]
    assert len(CASES) == 5
