"""The benchmark trains and encodes with each kind of tokenizer, and prints the numbers that docs/text.md shows."""

import json
import sys
from pathlib import Path

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


def test_each_kind_of_tokenizer_is_measured(tiny_text: Path) -> None:
    flags = ["--data", str(tiny_text), "--vocab-size", "270", "--kinds", "bpe", "byte-level", "--processes", "1", "--json"]
    done = run_command([sys.executable, "benchmarks/encoding_speed.py", *flags], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert list(seen) == ["bpe", "byte-level"]
    for values in seen.values():
        assert set(values) == {"megabytes", "training_seconds", "library_mb_per_second", "mb_per_second_1_processes"}
        assert min(values["library_mb_per_second"], values["mb_per_second_1_processes"]) > 0
