"""No rank ever holds the whole model, not even while it is built."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
CONSTANT_MIB = 64.0
"""Memory that does not grow with the model: chunks of drawn rows, DeepSpeed's bookkeeping, slack of the allocator."""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_building_base_on_4_ranks_peaks_at_a_quarter_plus_one_layer_plus_a_constant() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", "benchmarks/build_memory.py"]
    done = run_command([*command, "--recipe", "text_base"], cwd=ROOT, timeout=380, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["share_mib"] == pytest.approx(seen["model_mib"] / 4, abs=0.1)
    assert seen["student_peak_mib"] <= seen["share_mib"] + seen["largest_layer_mib"] + CONSTANT_MIB
    assert seen["student_after_mib"] <= seen["share_mib"] + CONSTANT_MIB
