"""Damage the newest checkpoint of a run in random ways. Each damage must be noticed, none loaded, and the older one restored bit for bit.

python -m tests.soak.corruption --count 500 --out results/corruption.json
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.distributed import run_distributed
from tests.recipes.checkpoint.damage import WRITERS, Case, load_damaged, write_two
from tests.recipes.checkpoint.topology import prepare_small

SECONDS_PER_CASE = 5.0  # limit after which a case counts as hung


def run_cases(count: int, seed: int, folder: Path, prepared: Path) -> list[Case]:
    """Run `count` cases, all kinds in turn, with seeds from `seed` on."""
    run_dir = folder / "run"
    run_distributed(write_two, WRITERS.world_size, prepared, run_dir, timeout=300)
    args = prepared, run_dir, range(seed, seed + count)
    cases: list[Case] = run_distributed(load_damaged, 1, *args, timeout=120 + SECONDS_PER_CASE * count)[0]
    return cases


def summary(cases: list[Case], seconds: float) -> dict:
    """Return counts by kind, and every case that was not noticed."""
    return {
        "count": len(cases),
        "detected": sum(case.is_detected for case in cases),
        "kinds": dict(Counter(case.kind for case in cases)),
        "undetected": [asdict(case) for case in cases if not case.is_detected],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Returns the exit code: 1 if a case was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the summary to this JSON file")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cases = run_cases(args.count, args.seed, Path(folder), prepare_small("text", Path(folder)))
    result = summary(cases, time.monotonic() - start)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(result["detected"] < result["count"])


if __name__ == "__main__":
    sys.exit(main())
