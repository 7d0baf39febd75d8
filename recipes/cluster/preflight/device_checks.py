"""The short checks of benchmarks/accelerator_check.py on this node: does it train, are shards and gradients right? Torch-free; the checks
run in processes of their own and end with them."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from recipes.cluster.checkout import ROOT

SCRIPT = ROOT / "benchmarks" / "accelerator_check.py"
SECONDS = 180.0
"""The time boxes of the short checks are shorter."""
FAILED = 1


def failures(has_device: bool) -> dict[str, str]:
    """`check NAME` -> what it found, for those that failed. Raises: RuntimeError where they could not run."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--short", "--device", "cuda" if has_device else "cpu", "--out", folder]
        try:
            done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{SCRIPT.name} was not done within {SECONDS:g} s") from None
        if done.returncode not in (0, FAILED) or not (Path(folder) / "check.json").exists():
            raise RuntimeError((done.stderr.strip().splitlines() or [f"{SCRIPT.name} ended with {done.returncode}"])[-1])
        checks = json.loads((Path(folder) / "check.json").read_text())["checks"]
    failed = [(check["name"], row) for check in checks for row in check["rows"] if row["status"] == "fail"]
    return {f"check {name}": f"{row['what']}: {row['seen']}" for name, row in reversed(failed)}  # of several rows the first
