"""Pre-trains the small recipes and their controls, judges them against random weights and simple baselines, and writes the tables and
pictures of docs/results.md. `make results` calls it. What is finished is not computed again, so an interrupted command goes on.

python benchmarks/small_results.py --data DATA

DATA has the folders text-novels, cls-mr, speech-fsdd, image-flowers and so on. The finished cells of this release are in docs/results/:
with `--kept runs/mine` everything is computed from nothing.
"""

import argparse
import sys
from pathlib import Path

from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.system.exclusive import exclusively
from results.arms import Arms
from results.cells import Cells
from results.curves import write_curves
from results.page import write_page
from results.tasks import NETWORKS


def main() -> int:
    """Parse the flags, and compute what is not finished. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    shipped = ROOT / "docs" / "results"
    parser.add_argument("--kept", type=Path, default=shipped, help="folder of the finished cells and encoders (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for runs and logs (default: runs/results; with --kept, its folder work)")
    parser.add_argument("--deepspeed_config", type=Path, default=ROOT / "ds_configs" / "zero3_cpu_bf16.json", help="for all runs")
    parser.add_argument("--page", type=Path, help="page whose tables are written (default: docs/results.md; with --kept, a copy there)")
    modalities = sorted({one.modality for one in NETWORKS})
    parser.add_argument("--modality", nargs="+", choices=modalities, default=modalities, help="compute these alone (default: all)")
    parser.add_argument("--only-page", action="store_true", help="compute nothing: write tables and pictures of what is finished")
    parser.add_argument("--jobs", type=int, default=2, help="cells at the same time, each with one thread (default: %(default)s)")
    args = parser.parse_args()
    kept, page = args.kept.resolve(), ROOT / "docs" / "results.md"
    is_shipped = kept == shipped.resolve()
    out = args.out.resolve() if args.out else ROOT / "runs" / "results" if is_shipped else kept / "work"
    arms = Arms(Cells(out, kept, args.jobs), args.data.resolve(), args.deepspeed_config.resolve())
    kept.mkdir(parents=True, exist_ok=True)
    with exclusively(kept / ".lock", f"{kept}: another command writes results there; wait for it, or name another folder with --kept"):
        if not args.only_page:
            compute(arms.of_modalities(args.modality))
        write_page(page, args.page or (page if is_shipped else kept / page.name), arms)
        write_curves(kept, arms)
    return 0


def compute(arms: Arms) -> None:
    """Compute the cells that are not finished. Raises: ConfigError; Stopped."""
    arms.check_data()
    for stage in (arms.pretraining, arms.probes, arms.choices, arms.finetuning):
        arms.cells.finish(stage())


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
