"""The benchmark runs updates of padded and of packed rows on the engines of training, and prints what they differ in."""

import json
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
SMALL = {
    **{"model.num_layers": 1, "model.hidden_size": 16, "model.ffn_hidden_size": 32, "model.num_attention_heads": 2},
    **{"teacher.average_top_k_layers": 1, "frontend.vocab_size": 100, "data.sequence_length": 64},
}


@pytest.mark.slow
def test_packed_rows_have_hardly_any_padding_and_the_ratio_is_that_of_the_rates() -> None:
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    flags = ["--documents", "400", "--mean", "60", "--pairs", "2", "--json", *settings]
    done = run_command([sys.executable, "benchmarks/packed_text.py", *flags], cwd=ROOT, timeout=120, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["real_tokens_share"]["padded"] < 0.75 < 0.99 < seen["real_tokens_share"]["documents"] <= 1
    rates = seen["real_tokens_per_second"]
    assert seen["ratio"] == pytest.approx(rates["documents"] / rates["padded"]) and seen["ratio_of_pairs"] > 0
    assert (seen["mean_tokens"], seen["sigma"], seen["pairs"]) == (60, 1, 2) and set(seen["step_milliseconds"]) == {"padded", "documents"}
