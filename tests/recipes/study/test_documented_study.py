"""The table of the study in docs/scaling.md gives the fit that is beside it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest

from recipes.study.fit import fit_rows
from recipes.study.study_file import read_study

FOLDER = Path(__file__).parents[3] / "docs" / "scaling" / "text_isoflop_novels"


def as_numbers(value: Any) -> Any:
    """Return JSON with every number to six digits: other processors round otherwise."""
    if isinstance(value, dict):
        return {key: as_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_numbers(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_the_committed_table_gives_the_committed_fit() -> None:
    rows = pyarrow.csv.read_csv(FOLDER / "table.csv").to_pylist()
    rows = [row | {name: row[name] or None for name in ("problem", "reason")} for row in rows]
    found = fit_rows(read_study(FOLDER / "study.json"), rows).to_json()
    kept = json.loads((FOLDER / "fit.json").read_text())
    assert found["num_runs"] == kept["num_runs"] == 40 and found["supported"] == kept["supported"] == ["law"]
    assert [one["inside"] for one in found["held_out"]] == [one["inside"] for one in kept["held_out"]]
    for name, exponent in kept["law"]["exponents"].items():
        assert found["law"]["exponents"][name] == pytest.approx(exponent, rel=0.02)
    assert as_numbers(found["isoflop"]["minima"]) == as_numbers(json.loads(json.dumps(kept["isoflop"]["minima"])))
