"""Makes the disk full, read-only, broken or slow at every file operation of a save and of a deletion. The older checkpoint must stay
complete. The run must continue, or end with exit code 2 and one line. In that case the same command must continue it to the result of a
run without any fault, bit for bit.

python -m tests.soak.disk --out results/disk.json
python -m tests.soak.disk --error EIO --stride 5

Each error happens once (then the run must continue and end with 0), and at every fourth operation permanently.
"""

import argparse
import errno
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.checkpoint.layout import newest, step_of
from recipes.errors import ConfigError
from tests.disturbed import LAST, Reference, conclude, events_of, finished, make_reference, prepare
from tests.faults import NO_LIMIT, Fault, Operation

ERRORS = ("ENOSPC", "EROFS", "EIO")
FIRST, AFTER = "step_00000006", "step_00000012"
"""The operations from the save of step 6 up to the save of step 12: the saves of steps 6 and 9, and the deletion of step 3."""
FOR_GOOD_STRIDE = 4
SLOW = {"fsync": 0.2, "write": 0.02}
"""Kind of operation -> seconds by which each operation of that kind is delayed."""
PROBLEMS = (AssertionError, ConfigError, OSError, subprocess.TimeoutExpired)


@dataclass(frozen=True)
class Case:
    """Which error happens at which operation of which rank, and whether all later operations fail too (`for_good`)."""

    rank: int
    operation: Operation
    error: str
    for_good: bool

    def line(self) -> str:
        """Return the case as one line for the terminal."""
        how = "for good from" if self.for_good else "at"
        return f"{self.error} {how} {self.operation.number} {self.operation.label} (rank {self.rank})"

    def fault(self) -> Fault:
        """Return the fault that the rank's process has to install."""
        return Fault("error", self.operation.number, NO_LIMIT if self.for_good else 1, getattr(errno, self.error))


def operations_of(operations: list[Operation]) -> list[Operation]:
    """Return the operations from the first one on checkpoint FIRST up to the first one on checkpoint AFTER, which is not included."""
    begin = next(number for number, one in enumerate(operations) if FIRST in one.path)
    return operations[begin : next(number for number, one in enumerate(operations) if AFTER in one.path)]


def draw_cases(single: Reference, pair: Reference, errors: tuple[str, ...], stride: int) -> Iterator[tuple[Reference, Case]]:
    """Yield (reference run, case) for every `stride`-th operation: all operations of a run of one rank, and those on one checkpoint of the
    second of two ranks."""
    alone = operations_of(single.operations[0])
    second = [one for one in operations_of(pair.operations[1]) if FIRST in one.path]
    for error in errors:
        for for_good, step in ((False, stride), (True, stride * FOR_GOOD_STRIDE)):
            yield from ((single, Case(0, one, error, for_good)) for one in alone[::step] if error == "EIO" or "reading" not in one.kind)
            yield from ((pair, Case(1, one, error, for_good)) for one in second[::step])


def run_case(reference: Reference, case: Case, run_dir: Path) -> str:
    """Run with the error of the case, check the checkpoints, and let the same command continue to the end. Returns how the first run
    ended: "went on", "not noticed" or "stopped". Raises: one of PROBLEMS if a check fails."""
    done = reference.run(run_dir, {case.rank: case.fault()})
    reference.check_checkpoints(run_dir)
    codes = {one.returncode for one in done}
    assert codes in ({0}, {2}), [one.stderr for one in done]
    if codes == {0}:
        assert not any(one.stderr for one in done), [one.stderr for one in done]
        ended = "went on" if events_of(run_dir, "save_failed") or events_of(run_dir, "leftover") else "not noticed"
        reference.check_same(run_dir)
    else:
        found = re.fullmatch(r"error: .* continues from step (\d+)\n", done[0].stderr)
        assert found and case.for_good, f"ended by {done[0].stderr}"
        place = newest(run_dir)
        assert place and int(found[1]) == step_of(place) < LAST, f"says step {found[1]}, continues from {place}"
        ended = "stopped"
    finished(reference.run(run_dir))  # also removes what a failed deletion left behind
    reference.check_same(run_dir)
    hidden = [path.name for path in (run_dir / "checkpoints").glob(".*")]
    assert not hidden, hidden
    return ended


def run_slow(reference: Reference, run_dir: Path) -> str:
    """Run with a slow disk: every fsync, then every write is delayed. Both runs must have the usual result. Returns how long training
    waited for its saves with a slow fsync, as text."""
    for kind, seconds in SLOW.items():
        folder = run_dir / kind
        finished(reference.run(folder, {0: Fault("slow", 1, NO_LIMIT, seconds=seconds, only=f"{kind} ")}))
        reference.check_end(folder)
    waited = sum(event["wait_seconds"] for event in events_of(run_dir / "fsync", "save"))
    return f"same end; training waited {waited:.1f} s for its saves"


def main() -> int:
    """Run all cases and print the result. Returns the exit code: 1 if a case fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--error", choices=ERRORS, action="append", help="may be given several times; default all")
    parser.add_argument("--stride", type=int, default=1, help="only every n-th operation")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    args = parser.parse_args()
    begin, kinds, failures = time.monotonic(), Counter[str](), list[dict[str, object]]()
    with tempfile.TemporaryDirectory(prefix="disk_") as folder:
        prepared, references = prepare(Path(folder)), []
        for size in (1, 2):
            place = Path(folder, str(size))
            place.mkdir()
            references.append(make_reference(prepared, place, size))
        cases = list(draw_cases(*references, tuple(args.error or ERRORS), args.stride))
        for number, (reference, case) in enumerate(cases, 1):
            start, run_dir = time.monotonic(), Path(folder, f"run_{number}")
            try:
                ended = run_case(reference, case, run_dir)
            except PROBLEMS as problem:
                ended = "FAILED"
                failures.append({"case": asdict(case), "problem": f"{type(problem).__name__}: {problem}"})
            kinds[f"{case.error} {'for good' if case.for_good else 'once'}: {ended}"] += 1
            said = failures[-1]["problem"] if ended == "FAILED" else ""
            print(f"{number}/{len(cases)} {case.line()}: {ended} {said} ({time.monotonic() - start:.1f} s)", flush=True)
        (Path(folder) / "slow").mkdir()
        slow = run_slow(references[0], Path(folder) / "slow")
    result = {"soak": "disk", "count": len(cases), "passed": len(cases) - len(failures), "kinds": kinds, "slow": slow, "failures": failures}
    return conclude(result, begin, args.out)


if __name__ == "__main__":
    sys.exit(main())
