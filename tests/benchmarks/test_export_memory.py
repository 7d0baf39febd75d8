"""The benchmark exports a run and prints the numbers that docs/interop.md shows."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_export_is_measured() -> None:
    done = run_command([sys.executable, "benchmarks/export_memory.py", "--recipe", "vision_tiny", "--json"], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert set(seen) == {"weights_mb", "largest_mb", "growth_mb", "seconds"}
    assert seen["weights_mb"] > seen["largest_mb"] > 0 and seen["seconds"] > 0 and seen["growth_mb"] >= 0
