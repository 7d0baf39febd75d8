"""Measures the preparation of a folder with very many files: seconds and peak memory of listing, scanning and writing. The files are tiny
ones that are made for it and removed again, so that only the cost per file is measured.

python benchmarks/scan_time.py --files 1000000 --processes 2 --out /tmp
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from recipes.cluster.command import exit_code_of
from recipes.data.media_folder import open_prepared
from recipes.data.vision_folder import prepare_vision
from recipes.data_config import VisionDataConfig

FILES_PER_FOLDER = 1000


def main() -> int:
    """Parse the flags, measure, and print one JSON object. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="folder on the file system to be measured (default: a temporary one)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.out))
    try:
        print(json.dumps(measure(folder, args.files, args.processes)))
    finally:
        shutil.rmtree(folder)
    return 0


def measure(folder: Path, num_files: int, num_processes: int) -> dict[str, float]:
    """Make the files, prepare them, and open the result. Returns seconds and megabytes; those of the memory are of this process alone,
    beyond what it has after its imports."""
    make_files(folder / "raw", num_files)
    before, start = peak_megabytes(), time.perf_counter()
    prepared = prepare_vision(VisionDataConfig(path=str(folder / "raw")), folder / "prepared", num_processes=num_processes)
    prepare_seconds, peak = time.perf_counter() - start, peak_megabytes() - before
    start = time.perf_counter()
    opened = open_prepared(prepared)
    return {
        **{"files": num_files, "processes": num_processes, "items": opened.counts["items"]},
        **{"prepare_seconds": prepare_seconds, "files_per_second": num_files / prepare_seconds},
        **{"peak_megabytes": peak, "peak_bytes_per_file": peak * 1e6 / num_files},
        **{"open_seconds": time.perf_counter() - start},
        "folder_megabytes": sum(path.stat().st_size for path in prepared.iterdir()) / 1e6,
    }


def make_files(folder: Path, num_files: int) -> None:
    """Write small files with names as long as those of ImageNet-22k: n01440764/n01440764_000123.jpg."""
    for number in range(num_files):
        name = f"n{number // FILES_PER_FOLDER:08}"
        if number % FILES_PER_FOLDER == 0:
            (folder / name).mkdir(parents=True)
        with open(folder / name / f"{name}_{number:06}.jpg", "wb") as file:
            file.write(number.to_bytes(8, "little"))


def peak_megabytes() -> float:
    """Return the highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
