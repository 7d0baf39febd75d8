"""The benchmark prints the share of padding with batches of similar lengths and with random ones."""

import json
import sys
from pathlib import Path

from recipes.data.labelled_prepare import prepare_labelled
from recipes.data.labelled_text_reader import LabelledTextReader
from tests.distributed import run_command
from tests.recipes.data.labelled_texts import recipe_of, write_texts

ROOT = Path(__file__).parents[2]


def test_batches_of_similar_lengths_pad_less_than_a_tenth(tmp_path: Path) -> None:
    recipe = recipe_of(write_texts(tmp_path / "data", {"train": 700, "valid": 9}, most=14))
    prepared = prepare_labelled(recipe, tmp_path / "prepared", lambda recipe: LabelledTextReader(recipe, None))
    flags = ["--data", str(prepared), "--batch", "16", "--micro", "16", "8"]
    done = run_command([sys.executable, "benchmarks/padding.py", *flags], cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    shares = json.loads(done.stdout)
    assert list(shares) == ["16", "8"]
    assert all(found["buckets"] < 0.1 < found["random"] for found in shares.values())
