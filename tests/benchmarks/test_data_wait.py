"""The benchmark measures the loader of a recipe beside updates that sleep."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "settings"), [("0", []), ("1", ["--set", "data.views_on=device"])])
def test_the_wait_is_a_share_of_the_updates_and_the_reading_is_counted(workers: str, settings: list[str]) -> None:
    flags = ["--batch", "2", "--step", "0.3", "--updates", "3", "--json", "--set", f"data.num_workers={workers}", *settings]
    done = run_command([sys.executable, "benchmarks/data_wait.py", *flags], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["data"] == "the shipped sample" and seen["workers"] == int(workers) and 0 <= seen["wait_percent"] < 50
    assert seen["cpu_milliseconds_per_update"] > 0 and seen["median_wait_milliseconds"] <= seen["longest_wait_milliseconds"]
