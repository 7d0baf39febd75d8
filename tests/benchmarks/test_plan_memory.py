"""The benchmark measures the cells of a study, each plan once."""

import json
import sys
from pathlib import Path

import pytest

from plan_memory import CASES, subjects
from tests.distributed import run_command
from tests.made_up_study import made_up_study

ROOT = Path(__file__).parents[2]


def test_cells_with_the_same_plan_are_measured_once(tmp_path: Path) -> None:
    found = subjects(made_up_study(tmp_path))
    assert [one.recipe.model.hidden_size for one in found] == [32, 64] and all(one.length == 128 for one in found)
    assert len(subjects(None)) == len(CASES)


@pytest.mark.slow
def test_the_memory_of_a_cell_is_measured_beside_its_plan(tmp_path: Path) -> None:
    study = made_up_study(tmp_path)
    done = run_command([sys.executable, "benchmarks/plan_memory.py", "--study", str(study), "--case", "0"], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["case"].startswith("hidden_size-32") and abs(seen["build"]["percent_off"]) < 1 and seen["train"]["measured"] > 1e6
