"""The benchmark times the engines that training builds and prints the keys that product.md requires."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
KEYS = {
    *(
        "step_milliseconds",
        "matmul_peak_tflops",
        "percent_of_matmul_peak",
        "mfu",
        "split_milliseconds",
        "peak_memory_bytes",
        "device",
        "versions",
    ),
}


@pytest.mark.slow
def test_the_json_has_every_promised_key_and_a_ratio_to_plain_torch() -> None:
    arguments = ["--size", "tiny", "--batch", "2", "--length", "32", "--dropout", "0", "--steps", "2", "--plain", "--json"]
    done = run_command([sys.executable, "benchmarks/step_time.py", *arguments], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.keys() >= KEYS
    assert 0 < seen["percent_of_matmul_peak"] < 100 and seen["mfu"] is None
    assert {"teacher_forward", "student_forward", "backward", "guard", "optimizer", "after_step"} <= seen["split_milliseconds"].keys()
    assert seen["engine_over_plain"] > 0.5
