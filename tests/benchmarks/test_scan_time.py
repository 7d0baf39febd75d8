"""The benchmark prepares as many files as asked, prints the figures of docs/performance.md, and removes the files."""

import json
import sys
from pathlib import Path

from tests.distributed import run_command

ROOT = Path(__file__).parents[2]


def test_a_folder_of_many_files_is_measured_and_removed(tmp_path: Path) -> None:
    flags = ["--files", "1200", "--processes", "1", "--out", tmp_path]
    done = run_command([sys.executable, "benchmarks/scan_time.py", *flags], cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["items"] == seen["files"] == 1200 and seen["folder_megabytes"] > 1200 * 50 / 1e6
    assert seen["files_per_second"] > 0 and seen["peak_megabytes"] >= 0 and list(tmp_path.iterdir()) == []
