"""Checks everything that needs a GPU, in one command of at most 8 minutes. Writes check.json and check.md into DIR.

python benchmarks/accelerator_check.py --out check
python benchmarks/accelerator_check.py --device cpu --out check      tiny sizes on the CPU, to test the checks themselves
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerator.checks import ALONE, LONGEST_SECONDS, SIDE_BY_SIDE, Check, all_checks
from accelerator.fitness import device_info
from accelerator.processes import clear_launcher_variables
from accelerator.result import CANNOT, FAIL, WHOLE, Outcome, Row, summary, write_files
from accelerator.runner import INTERRUPTED, LOGS, Run
from recipes.cluster.checkout import checkout_digest, commit
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.errors import EXIT_INTERRUPTED, ConfigError
from recipes.system.exclusive import exclusively

EXIT_FAILED, EXIT_ENDED = 1, 128
"""Exit codes: a check failed; a signal ended this command (128 + its number)."""


def main() -> int:
    """Parse the flags, inspect the device, and run the checks. Returns the exit code: 0, 1 if a check failed, 130 or 128 + signal if
    interrupted."""
    names = ", ".join(f'"{name}"' for name in all_checks())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for check.json, check.md, logs and scratch/")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHECK", help=f"some of {names}")
    parser.add_argument("--short", action="store_true", help="the ones that launch/preflight.py --full runs")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    clear_launcher_variables()
    quiet_libraries()
    if args.worker:
        return run_as_worker(args)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(EXIT_ENDED + number))
    stages = [(chosen(SIDE_BY_SIDE, args), len(os.sched_getaffinity(0))), (chosen(ALONE, args), 1)]
    if not any(lanes for lanes, _ in stages):
        short = ", ".join(check.name for check in all_checks().values() if check.is_short)
        raise ConfigError(f"--only with --short leaves no check; the short ones are {short}")
    with locked(args.out):
        return run_checks(args, device_info(args.device), stages)


def chosen(lanes: dict[str, list[Check]], args: argparse.Namespace) -> dict[str, list[Check]]:
    """Return the lanes (lane -> checks of one worker process) with only the checks that the flags ask for. Raises: ConfigError for an
    unknown name."""
    unknown = [name for name in args.only if name not in all_checks()]
    if unknown:
        raise ConfigError(f"--only {unknown[0]!r}: no such check; there are " + ", ".join(f'"{name}"' for name in all_checks()))
    found = {
        lane: [check for check in checks if (not args.only or check.name in args.only) and (check.is_short or not args.short)]
        for lane, checks in lanes.items()
    }
    return {lane: checks for lane, checks in found.items() if checks}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and lock it in this block, and remove the logs of an earlier call. Raises: ConfigError if that fails or another
    check has it locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; name a folder that can be written") from None
    with exclusively(folder / ".lock", f"--out {folder}: another check writes there; wait for it, or name another folder"):
        shutil.rmtree(folder / LOGS, ignore_errors=True)
        yield


def run_checks(args: argparse.Namespace, head: dict[str, Any], stages: list[tuple[dict[str, list[Check]], int]]) -> int:
    """Run the checks stage by stage and return the exit code. A stage is (lane -> checks of one worker process, number of lanes that run
    at once). `head`: facts on device and software. check.json and check.md are written at the beginning and after each check."""
    start = time.monotonic()
    order = {check.name: check for lanes, _ in stages for checks in lanes.values() for check in checks}
    outcomes: dict[str, Outcome] = {}
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    head = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": command,
        "commit": commit() or "unknown",
        "code": checkout_digest()[:12],
    } | head
    for note in head["notes"]:
        say(f"note: {note}")

    def write() -> None:
        write_files(args.out, head | {"seconds": round(time.monotonic() - start, 1)}, [outcomes[n] for n in order if n in outcomes])

    def take(outcome: Outcome) -> None:
        outcomes[outcome.name] = outcome
        write()
        failed = [f"  {row.what}: {row.seen}" for row in outcome.rows if row.status == FAIL]
        say("\n".join([f"{outcome.name}: {outcome.status}, {outcome.seconds:.0f} s", *failed]))

    write()
    run = Run(args.device, args.out.resolve(), start + LONGEST_SECONDS, take)
    try:
        for lanes, at_once in stages:
            run.run_lanes(lanes, at_once)
    except (KeyboardInterrupt, SystemExit) as end:
        for name in order.keys() - outcomes.keys():
            outcomes[name] = Outcome(name, order[name].seconds, [Row(WHOLE, CANNOT, INTERRUPTED)])
        write()
        print(f"interrupted; {args.out}/check.md has what was found", file=sys.stderr)
        return int(end.code or 0) if isinstance(end, SystemExit) else EXIT_INTERRUPTED
    say(f"{summary(outcomes.values())}; {args.out}/check.md")
    return EXIT_FAILED if any(outcome.status == FAIL for outcome in outcomes.values()) else 0


def say(text: str) -> None:
    """Print `text`. If the reader of the output is gone, continue: the results are in the files."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_as_worker(args: argparse.Namespace) -> int:
    """Run the checks of one lane. This is the main function of a worker process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # lanes share the cores
    from accelerator.worker import end_with_parent, work

    pipe, lifeline, *checks = args.worker
    end_with_parent(int(lifeline))
    return work([Check(**json.loads(check)) for check in checks], args.device, args.out, int(pipe))


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
