"""The short checks of benchmarks/accelerator_check.py on this node: does it train, are shards and gradients right? Torch-free; the checks
run in processes of their own and end with them."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recipes.cluster.checkout import ROOT

ALL = "device checks"
"""The fact that is missing where they could not run."""

SCRIPT = ROOT / "benchmarks" / "accelerator_check.py"
SECONDS = 300.0
"""The time boxes of the short checks are shorter, one after the other on a single core too."""
TABLE = "check.json"


def run(has_device: bool) -> dict[str, Any]:
    """`summary`: how many rows of each status; `failures`: "check NAME" -> what it found, or ALL -> why the checks could not run. Where
    something failed the folder with the tables and logs stays, and is named."""
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
    # of several rows of a check the first is told
    failures = {f"check {name}": f"{row['what']}: {row['seen']} ({folder}/check.md)" for name, row in reversed(rows)}
    if done.returncode and not failures:
        last = (done.stderr.strip().splitlines() or [f"{SCRIPT.name} ended with {done.returncode}"])[-1]
        failures = {ALL: last.removeprefix("error: ")}
    if not rows:
        shutil.rmtree(folder)
    return {"summary": found["summary"], "failures": failures}
