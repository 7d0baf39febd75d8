"""Kill a random rank or all ranks with SIGKILL, at random moments. Then run the same command until it ends. The end must be that of an
undisturbed run: weights, both moments, teacher, counters and curve, bit for bit.

python -m tests.soak.kill --count 100 --out results/kill.json
python -m tests.soak.kill --every-operation

Half of the kills are at file operations below checkpoints/ (all kinds in turn: writing, renaming, deleting), half at any
time between the start of the process and its end, from the beginning or from a checkpoint. Half of the cases are killed again after
that. After each kill every visible checkpoint must be whole and equal to the undisturbed run's.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.errors import ConfigError
from tests.disturbed import Reference, conclude, events_of, finished, make_reference, prepare
from tests.faults import Fault, Operation

SIZES = (1, 2)
AGAIN = (0, 0, 1, 2)
"""Numbers of later kills of a case, drawn evenly."""
MISSED = 0.6
"""If a run ended before the moment of its kill, it is tried again at this fraction of the moment."""
PROBLEMS = (AssertionError, ConfigError, OSError, subprocess.TimeoutExpired)


@dataclass(frozen=True)
class Kill:
    """A kill: at the start of a file operation of `rank`, or at `moment`, a fraction of an undisturbed run's time."""

    rank: int
    everyone: bool
    operation: Operation | None
    moment: float

    @property
    def victim(self) -> str:
        """The killed ranks, in words."""
        return "all ranks" if self.everyone else f"rank {self.rank}"


@dataclass(frozen=True)
class Case:
    """A run and its kills. `halfway`: it starts from a checkpoint."""

    size: int
    halfway: bool
    kills: tuple[Kill, ...]


def draw_cases(count: int, references: dict[int, Reference], rng: random.Random) -> Iterator[Case]:
    """Yield kills at operations and at moments in turn. All kinds of operations are used in turn, so that none is left out."""
    kinds: dict[str, list[tuple[int, int, Operation]]] = {}
    for size, rank, operation in operations_of(references):
        kinds.setdefault(operation.label, []).append((size, rank, operation))
    labels = rng.sample(sorted(kinds), len(kinds))
    for number in range(count):
        again = tuple(Kill(0, True, None, rng.random()) for _ in range(rng.choice(AGAIN)))
        size, rank, operation = rng.choice(kinds[labels[number // 2 % len(labels)]])
        if number % 2 == 0:
            yield Case(size, False, (Kill(rank, rng.random() < 0.5, operation, 0.0), *again))
            continue
        size = rng.choice(SIZES)
        yield Case(size, rng.random() < 0.5, (Kill(rng.randrange(size), rng.random() < 0.5, None, rng.random()), *again))


def operations_of(references: dict[int, Reference]) -> Iterator[tuple[int, int, Operation]]:
    """Yield (number of ranks, rank, operation) of all operations of an undisturbed run below checkpoints/."""
    for size, reference in references.items():
        for rank, operations in reference.operations.items():
            yield from ((size, rank, operation) for operation in operations)


def strike(reference: Reference, run_dir: Path, kill: Kill) -> str | None:
    """Start the command and kill it. Returns the operation in which it was killed, or None if it had ended before."""
    launches = len(events_of(run_dir, "start") + events_of(run_dir, "resume"))
    ends = len(events_of(run_dir, "stop"))
    operation = kill.operation
    ranks = reference.start(run_dir, {kill.rank: Fault("kill", operation.number)} if operation else None)
    if operation is None:
        time.sleep(kill.moment * reference.seconds)
        ranks.kill(None if kill.everyone else kill.rank)
    done = ranks.wait(240, patience=0 if kill.everyone else 5)
    if all(one.returncode == 0 for one in done):
        return None
    # If all ranks are killed while the run ends, some may have ended before.
    assert any(one.returncode == -signal.SIGKILL for one in done), [(one.returncode, one.stderr) for one in done]
    if operation:
        return operation.label
    if len(events_of(run_dir, "start") + events_of(run_dir, "resume")) == launches:
        return "loading" if launches else "starting"
    return "training" if len(events_of(run_dir, "stop")) == ends else "leaving"


def run_case(case: Case, reference: Reference, folder: Path, halfway: Path) -> list[str]:
    """Kill, check, and run to the end. Returns the operation of each kill. Raises: one of PROBLEMS."""
    run_dir, struck = folder / "run", []
    first, *again = case.kills
    for attempt in range(10):
        shutil.rmtree(run_dir, ignore_errors=True)
        if case.halfway:
            shutil.copytree(halfway, run_dir)
        kind = strike(reference, run_dir, Kill(first.rank, first.everyone, first.operation, first.moment * MISSED**attempt))
        if kind:
            break
        reference.check_same(run_dir)
    else:
        raise AssertionError(f"never struck: {first}")
    struck.append(kind)
    reference.check_checkpoints(run_dir)
    for kill in again:
        struck += [kind for kind in [strike(reference, run_dir, kill)] if kind]
        reference.check_checkpoints(run_dir)
    finished(reference.run(run_dir))
    reference.check_end(run_dir)
    return struck


def run_cases(cases: list[Case], references: dict[int, Reference], halfway: dict[int, Path], keep: Path) -> dict[str, object]:
    """Run all cases and print a line for each. The run dirs of failed cases go to `keep`."""
    kinds: dict[str, Counter[str]] = {"first kill": Counter(), "later kills": Counter(), "victim": Counter(), "ranks": Counter()}
    failures: list[dict[str, object]] = []
    for number, case in enumerate(cases, 1):
        begin, first = time.monotonic(), case.kills[0]
        with tempfile.TemporaryDirectory(prefix="kill_") as folder:
            try:
                struck = run_case(case, references[case.size], Path(folder), halfway[case.size])
                result = " then ".join(struck)
                kinds["first kill"][struck[0]] += 1
                kinds["later kills"].update(struck[1:])
            except PROBLEMS as problem:
                failures.append({"case": asdict(case), "problem": f"{type(problem).__name__}: {problem}", "kept": str(keep / str(number))})
                result = f"FAILED: {problem}"
                shutil.copytree(Path(folder), keep / str(number), dirs_exist_ok=True)
        kinds["victim"][first.victim] += 1
        kinds["ranks"][str(case.size)] += 1
        start = " from a checkpoint" if case.halfway else ""
        print(f"{number}/{len(cases)} {first.victim} of {case.size}{start}: {result} ({time.monotonic() - begin:.1f} s)", flush=True)
    passed = len(cases) - len(failures)
    return {"count": len(cases), "passed": passed, "kinds": kinds, "failures": failures}


def main() -> int:
    """Returns the exit code: 1 if a case fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--every-operation", action="store_true", help="instead: one kill at each file operation there is (some 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "kill_failures"), help="where run dirs that failed go")
    args = parser.parse_args()
    begin, rng = time.monotonic(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kill_") as folder:
        prepared, references, halfway = prepare(Path(folder)), {}, {}
        for size in SIZES:
            place = Path(folder, str(size))
            place.mkdir()
            references[size] = make_reference(prepared, place, size)
            halfway[size] = place / "halfway"
            finished(references[size].run(halfway[size], run__max_steps=6))
        cases = list(draw_cases(args.count, references, rng))
        if args.every_operation:
            cases = [Case(size, False, (Kill(rank, False, operation, 0.0),)) for size, rank, operation in operations_of(references)]
        result = run_cases(cases, references, halfway, args.keep)
    return conclude({"soak": "kill", "seed": args.seed, **result}, begin, args.out)


if __name__ == "__main__":
    sys.exit(main())
