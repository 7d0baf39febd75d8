"""The benchmark makes a study up, collects it, and reports it."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_small_study_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/study_size.py", "--folder", str(tmp_path), "--runs", "100", "--rows", "30"]
    done = run_command(command, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["runs"] == 100 and seen["page_megabytes"] < 3 and seen["collect_seconds"] > 0 and seen["report_seconds"] > 0
