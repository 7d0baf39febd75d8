"""The benchmark prints measured and estimated bytes. Its twelve cases are within 15 %."""

import json
import sys
from pathlib import Path

import pytest

from activation_memory import CASES
from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twelve_micro_batches_of_three_modalities_are_estimated_within_15_percent() -> None:
    done = run_command([sys.executable, "benchmarks/activation_memory.py", "--json"], cwd=ROOT, timeout=1100)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == len(CASES) == 12 and {row["recipe"].partition("_")[0] for row in rows} == {"text", "speech", "vision"}
    assert all(abs(row["error"]) < 0.15 for row in rows), [(row["recipe"], row["error"]) for row in rows]


@pytest.mark.slow
def test_one_case_can_be_named() -> None:
    flags = ["--recipe", "text_tiny", "--batch", "2", "--length", "64", "--precision", "bf16", "--recompute"]
    done = run_command([sys.executable, "benchmarks/activation_memory.py", *flags], cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "recipe text_tiny, batch 2, length 64, dropout published, precision bf16, recomputes True, measured_bytes " in done.stdout
