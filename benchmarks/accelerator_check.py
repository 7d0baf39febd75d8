"""Everything about this software that needs a GPU, in one command of at most 8 minutes. DIR gets check.json and check.md.

python benchmarks/accelerator_check.py --out check
python benchmarks/accelerator_check.py --device cpu --out check      the same with tiny sizes: do the checks themselves run?
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerator.checks import ALONE, LONGEST_SECONDS, SIDE_BY_SIDE, Check, all_checks
from accelerator.fitness import facts_of_device
from accelerator.result import FAIL, Outcome, summary, write_files
from accelerator.runner import Run
from recipes.cluster.checkout import commit
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.errors import ConfigError

EXIT_FAILED = 1


def main() -> int:
    """Parse, look at the device, run the checks. Exit code 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for check.json, check.md and logs")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help=f"some of: {', '.join(all_checks())}")
    parser.add_argument("--short", action="store_true", help="the ones that launch/preflight.py --full runs")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    if args.worker:
        return run_as_worker(args)
    lanes = [chosen(stage, args) for stage in (SIDE_BY_SIDE, ALONE)]
    head = facts_of_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    return run_checks(args, head, lanes)


def chosen(lanes: dict[str, list[Check]], args: argparse.Namespace) -> dict[str, list[Check]]:
    """The lanes with the checks that were asked for. Raises: ConfigError for a name that there is not."""
    unknown = [name for name in args.only if name not in all_checks()]
    if unknown:
        raise ConfigError(f"--only {unknown[0]!r}: no such check; there are {', '.join(all_checks())}")
    found = {
        lane: [check for check in checks if (not args.only or check.name in args.only) and (check.is_short or not args.short)]
        for lane, checks in lanes.items()
    }
    return {lane: checks for lane, checks in found.items() if checks}


def run_checks(args: argparse.Namespace, head: dict[str, Any], stages: list[dict[str, list[Check]]]) -> int:
    """All stages; both files are written after each check."""
    start = time.monotonic()
    order = [check.name for lanes in stages for checks in lanes.values() for check in checks]
    outcomes: dict[str, Outcome] = {}
    head = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "command": " ".join(sys.argv), "commit": commit() or "unknown"} | head
    for note in head["notes"]:
        print(f"note: {note}", flush=True)

    def take(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        write_files(args.out, head | {"seconds": round(time.monotonic() - start, 1)}, [outcomes[n] for n in order if n in outcomes])
        print(f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s", flush=True)
        for row in outcome.rows:
            if row.status == FAIL:
                print(f"  {row.what}: {row.seen}", flush=True)

    run = Run(args.device, args.out.resolve(), start + LONGEST_SECONDS, take)
    cores = len(os.sched_getaffinity(0))
    for number, lanes in enumerate(stages):
        if lanes:
            run.run_lanes(lanes, at_once=max(1, min(len(lanes), cores)) if number == 0 else 1)
    print(f"{summary(outcomes.values())}; {args.out}/check.md")
    return EXIT_FAILED if any(outcome.status == FAIL for outcome in outcomes.values()) else 0


def run_as_worker(args: argparse.Namespace) -> int:
    """In the process that runs the checks themselves."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # lanes share the cores
    from accelerator.worker import work

    pipe, *checks = args.worker
    return work([Check(**json.loads(check)) for check in checks], args.device, args.out, int(pipe))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
