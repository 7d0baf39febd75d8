"""The benchmark measures the real engines for many ranks, in one process with a fake process group."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "benchmarks/host_time.py", "--deepspeed_config", "ds_configs/zero3_bf16.json"]


@pytest.mark.slow
def test_phases_are_disjoint_and_collectives_are_counted_by_kind_with_their_bytes() -> None:
    done = run_command([*COMMAND, "--recipe", "text_tiny", "--world", "8", "--micro-batches", "2", "--json"], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    phases = {"student_forward", "teacher_forward", "loss and gather", "backward", "count micro-batch", "sum of replicas", "gradient norm"}
    phases |= {"optimizer", "after step"}
    total = seen["host_milliseconds"].pop("total")
    assert set(seen["host_milliseconds"]) == phases == set(seen["collectives"])
    assert sum(seen["host_milliseconds"].values()) == total and "host_over_plain" not in seen, "plain has one micro-batch"
    assert seen["collectives"]["loss and gather"]["all_gather"] == 1 and not seen["collectives"]["teacher_forward"], "once per update"
    assert seen["collectives"]["backward"]["reduce_scatter megabytes"] > 0
    assert seen["collectives"]["after step"] == {}, "the EMA touches local memory only"


def test_a_world_of_zero_ranks_is_a_one_line_error() -> None:
    done = run_command([*COMMAND, "--world", "0"], cwd=ROOT, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: --world 0") and done.stderr.count("\n") == 1
