"""Runs the short checks of benchmarks/accelerator_check.py on this node: whether it trains, and whether shards and gradients are right. The
checks run in processes of their own. Torch-free."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recipes.cluster.checkout import ROOT

ALL = "device checks"
"""Key of the failure if the checks could not run at all."""

SCRIPT = ROOT / "benchmarks" / "accelerator_check.py"
SECONDS = 300.0
"""Time limit of all checks together. It is longer than the limits of the short checks added up, as on a single core."""
TABLE = "check.json"


def run(has_device: bool) -> dict[str, Any]:
    """Run the checks on a CUDA device (`has_device`) or on the CPU. Returns `summary`: how many rows of each status, and `failures`:
    "check NAME" -> its result, or "device checks" (ALL) -> why none of them could run. The folder with tables and logs of a failed check
    is kept."""
    folder = Path(tempfile.mkdtemp(prefix="preflight_checks_"))
    words = ["--short", "--device", "cuda" if has_device else "cpu", "--out", str(folder)]
    try:
        done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"summary": "", "failures": {ALL: f"not done within {SECONDS:g} s; see {folder}"}}
    found: dict[str, Any] = {"summary": "", "checks": []}
    if (folder / TABLE).exists():
        found = json.loads((folder / TABLE).read_text())
    rows = [(check["name"], row) for check in found["checks"] for row in check["rows"] if row["status"] == "fail"]
    # reversed: if several rows of a check failed, the first one is kept
    failures = {f"check {name}": f"{row['what']}: {row['seen']} ({folder}/check.md)" for name, row in reversed(rows)}
    if done.returncode and not failures:
        last = (done.stderr.strip().splitlines() or [f"{SCRIPT.name} ended with {done.returncode}"])[-1]
        failures = {ALL: last.removeprefix("error: ")}
    if not rows:
        shutil.rmtree(folder)
    return {"summary": found["summary"], "failures": failures}
