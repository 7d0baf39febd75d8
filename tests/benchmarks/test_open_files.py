"""The open files of a rank grow with the logarithm of the number of ranks, on rank 0 with their number."""

import json
import sys
from pathlib import Path

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


def test_a_rank_has_a_connection_to_a_few_others_in_each_group() -> None:
    done = run_command([sys.executable, "benchmarks/open_files.py", "--ranks", "4", "8"], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    four, eight, most = map(json.loads, done.stdout.splitlines())
    num_groups = 3
    assert 0 < eight["another rank"] - four["another rank"] <= 2 * num_groups, "a full mesh adds 4 in each group"
    assert 0 < eight["rank 0"] - four["rank 0"] <= 2 * num_groups + 4, "and rank 0 holds the store"
    assert most["ranks"] == 512 and most["another rank"] < 256
