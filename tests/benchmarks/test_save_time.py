"""The benchmark saves the same state as training, while updates run, and prints the numbers that docs/reliability.md shows."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_save_is_measured_while_updates_run(tmp_path: Path) -> None:
    flags = ["--size", "tiny", "--batch", "2", "--length", "32", "--saves", "2", "--steps", "2", "--json", "--out", tmp_path]
    done = run_command([sys.executable, "benchmarks/save_time.py", *flags], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen["stall_seconds_each"]) == 2 and seen["copy_seconds"] <= seen["stall_seconds"]
    assert 4 <= seen["bytes_per_state_value"] < 4.1 and seen["overhead_percent_over_16_bytes"] < 2, "names weigh more in tiny"
    assert seen["write_seconds"] > 0 and seen["load_seconds"] > 0 and list(tmp_path.iterdir()) == []
