"""One of many ranks builds its part of a network, and draws no other."""

import json
import sys
from pathlib import Path

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "benchmarks/build_time.py"]


def test_one_of_64_ranks_holds_its_state_and_at_most_one_whole_parameter() -> None:
    done = run_command([*COMMAND, "--layers", "2", "--hidden", "1024"], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert 70e6 < seen["parameters"] < 90e6 and 95 < seen["largest_parameter_mib"] < 105, "the table of tokens, in bf16"
    assert 0 < seen["peak_mib"] < seen["state_mib"] + 2 * seen["largest_parameter_mib"] + 64, "the gathered copy has another one"
    assert 0 < seen["longest_silence_seconds"] <= seen["seconds"]


def test_a_rank_outside_of_the_world_is_a_one_line_error() -> None:
    done = run_command([*COMMAND, "--world", "4", "--rank", "4"], cwd=ROOT, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: --rank 4") and done.stderr.count("\n") == 1
