"""Plant faults into copies of the checkout, one at a time, and print which test of the fast suite finds each fault.

python -m tests.soak.plant                                        every list, tests/**/planted.toml
python -m tests.soak.plant recipes/train recipes/checkpoint/save.py --out results/plant.json
python -m tests.soak.plant recipes/train --make wiring            arguments left out, calls left out, calls in another order
python -m tests.soak.plant recipes/train/guard.py --make mutants --sample 40      cosmic-ray's

For each fault the tests of its module run first (test_MODULE.py, then the other tests of its folder that import it). If it survives, the
rest of the folder follows; with --until launch the tests of the commands; with --until suite the whole fast suite. A test that finds
a fault must pass without it, which is checked at the end.
"""

import argparse
import json
import os
import platform
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.planted import Planted, WiringFaults, imports_of_tests, listed, mutants
from tests.soak.warm import WarmPytest

ROOT = Path(__file__).parents[2]
HOUSE = ("model", "recipes")
FAST = "not slow and not slurm and not gpu"
STAGES = ("module", "folder", "launch", "suite")
NOT_IN_A_COPY = "tests/test_house.py::test_the_installed_packages_are_this_checkout"
TEST_SECONDS, STAGE_SECONDS, SUITE_SECONDS = 120, 600, 2400
"""Time limits of one test, of the tests of a module or folder, and of the whole suite. A fault that makes a test hang exceeds them."""


@dataclass(frozen=True)
class Outcome:
    """The result of a planted fault. `test` found it ("" if none did), with the message `how`. `stage`: the last stage that ran."""

    path: str
    fault: str
    harmless: str
    stage: str
    test: str
    how: str
    seconds: float

    def line(self) -> str:
        """Return the lines for the terminal."""
        result = f"{self.stage}: {self.test}" if self.test else "harmless" if self.harmless else f"SURVIVED {self.how}"
        return f"{self.seconds:5.0f} s  {self.path}: {self.fault}\n         {result}"


class Undecided(Exception):
    """A test run without a result for the fault."""


class Copy:
    """A copy of the checkout with one fault at a time."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        for name in filter(None, names.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._imports = imports_of_tests(folder)
        self._pytest = WarmPytest(folder)

    def judge(self, fault: Planted, until: str, known: str) -> Outcome:
        """Plant a fault, run its tests stage by stage until one finds it, and remove it. `known`: a test that found it before, or ""."""
        path, start = self.root / fault.path, time.monotonic()
        original = path.read_text()
        path.write_text(fault.text)
        stage, test, how = "", "", ""
        try:
            for stage, tests in self._stages(fault.path, STAGES[0] if fault.harmless else until, known):
                test, how = self.run(tests, SUITE_SECONDS if stage == "suite" else STAGE_SECONDS, may_be_gone=stage == "known")
                if test:
                    break
        except Undecided as undecided:
            how = f"undecided: {undecided}"
        finally:
            path.write_text(original)
        return Outcome(fault.path, fault.fault, fault.harmless, stage, test, how, round(time.monotonic() - start, 1))

    def _stages(self, path: str, until: str, known: str) -> Iterator[tuple[str, list[str]]]:
        if known and (self.root / known.partition("::")[0]).exists():
            yield "known", [known]
        module, folder = Path(path).with_suffix("").as_posix().replace("/", "."), Path("tests", path).parent
        mirror, done = (folder / f"test_{Path(path).stem}.py").as_posix(), set[str]()
        inside = [name for name in self._imports if Path(name).is_relative_to(folder) and name != mirror]
        near = [mirror] if mirror in self._imports else []
        near += [name for name in inside if module in self._imports[name] and Path(name).parent == folder]
        commands = [name for name in self._imports if name.startswith("tests/launch/")]
        for stage, tests in zip(STAGES, (near, inside, commands, list(self._imports)), strict=True):
            if new := [test for test in tests if test not in done]:
                yield stage, new
            done |= set(tests)
            if stage == until:
                return

    def run(self, tests: list[str], seconds: float, *, may_be_gone: bool = False) -> tuple[str, str]:
        """Return (the first test that fails, why), or two empty strings if all pass. `may_be_gone`: a test that no longer exists passes.

        Raises: Undecided if the run took too long or was killed from outside, which is no result for the fault.
        """
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", FAST, f"--timeout={TEST_SECONDS}", f"--deselect={NOT_IN_A_COPY}"]
        code, output = self._pytest.run([*options, *tests], seconds)
        if code is None:
            raise Undecided(f"{len(tests)} test files were not done after {seconds:g} s; plant again on a quieter machine")
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            raise Undecided(f"its run was killed from outside ({signal.Signals(-code).name}); plant again with more memory")
        if code in (0, 5) or (code == 4 and may_be_gone):  # 5: no fast test was selected
            return "", ""
        failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - (.*))?$", output, re.MULTILINE)
        return (failed[1], failed[2] or "") if failed else (tests[0], output[-500:])

    def close(self) -> None:
        """End the process of this copy."""
        self._pytest.close()


def house_files(chosen: list[str]) -> list[str]:
    """Return the modules of this repository below these files and folders; without any, all modules."""
    files = sorted(path.relative_to(ROOT).as_posix() for folder in HOUSE for path in (ROOT / folder).rglob("*.py"))
    return [file for file in files if not chosen or any(f"{file}/".startswith(f"{path.rstrip('/')}/") for path in chosen)]


def choose(args: argparse.Namespace) -> list[Planted]:
    """Return the faults that the command line selects."""
    files = house_files(args.paths)
    if args.make == "wiring":
        maker = WiringFaults(ROOT, house_files([]))
        found = [fault for file in files for fault in maker.of(file)]
    elif args.make == "mutants":
        found = [fault for file in files for fault in mutants(ROOT, file)]
    else:
        found = [fault for fault in listed(ROOT) if fault.path in files]
    found = [fault for fault in found if args.match in fault.fault]
    if not found:
        raise ValueError("no such fault; paths are files and folders of model/ and recipes/, from the root on")
    if args.again:
        survived = {(row["path"], row["fault"]) for row in read_outcomes(args.again) if not row["test"]}
        found = [fault for fault in found if (fault.path, fault.fault) in survived]
    if args.sample and args.sample < len(found):
        found = random.Random(args.seed).sample(found, args.sample)
    return found


def plant(
    faults: list[Planted], jobs: int, on_outcome: Callable[[Outcome], Any], until: str, known: dict[tuple[str, str], str] | None = None
) -> list[Outcome]:
    """Test each fault, `jobs` at a time, in separate copies. `on_outcome` gets each outcome at once. `known`: (path, fault) ->
    the test that found it before, which is tried first."""
    with tempfile.TemporaryDirectory(prefix="plant_") as folder, ExitStack() as stack:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(jobs):
            copy = Copy(Path(folder, str(number)))
            stack.callback(copy.close)
            copies.put(copy)

        def judge(fault: Planted) -> Outcome:
            copy = copies.get()
            try:
                outcome = copy.judge(fault, until, (known or {}).get((fault.path, fault.fault), ""))
            finally:
                copies.put(copy)
            on_outcome(outcome)
            return outcome

        with ThreadPoolExecutor(jobs) as threads:
            outcomes = list(threads.map(judge, faults))
        return _only_reliable(outcomes, copies.get())


def read_outcomes(path: Path) -> list[dict[str, Any]]:
    """Return the faults in a file of --out."""
    outcomes: list[dict[str, Any]] = json.loads(path.read_text())["faults"]
    return outcomes


def _only_reliable(outcomes: list[Outcome], clean: Copy) -> list[Outcome]:
    """Discard tests that also fail without a fault. Raises: Undecided."""
    functions, broken = {_function(outcome.test) for outcome in outcomes if outcome.test}, set[str]()
    while tests := sorted(functions - broken):
        test, how = clean.run(tests, SUITE_SECONDS)
        if not test:
            break
        if _function(test) not in functions:
            raise Undecided(f"without a fault {test} fails ({how}), so nothing can be said of those that noticed one")
        broken.add(_function(test))
    how = "noticed by {}, which fails without the fault"
    return [replace(one, test="", how=how.format(one.test)) if _function(one.test) in broken else one for one in outcomes]


def _function(test: str) -> str:
    """Return a test without its parameters, whose names may contain any character."""
    return test.partition("[")[0]


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Return counts by package, and every fault with the test that found it."""
    packages: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        counts = packages.setdefault(str(Path(outcome.path).parent), {"planted": 0, "noticed": 0, "harmless": 0})
        counts["harmless" if outcome.harmless and not outcome.test else "planted"] += 1
        counts["noticed"] += bool(outcome.test)
    return {
        "planted": sum(counts["planted"] for counts in packages.values()),
        "noticed": sum(counts["noticed"] for counts in packages.values()),
        "harmless": sum(counts["harmless"] for counts in packages.values()),
        "packages": packages,
        "undecided": sum(outcome.how.startswith("undecided") for outcome in outcomes),
        "command": sys.argv[1:],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "faults": [asdict(outcome) for outcome in outcomes],
    }


def write(path: Path | None, result: dict[str, Any]) -> None:
    """Write the file of --out, if given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files and folders of model/ and recipes/ (default: all)")
    parser.add_argument("--make", choices=("wiring", "mutants"), help="generated faults instead of the lists'")
    parser.add_argument("--match", default="", help="only faults whose description contains this")
    parser.add_argument("--sample", type=int, help="number of faults, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="only the faults that survived according to this file of --out")
    parser.add_argument("--before", type=Path, help="a file of --out: for each fault the test that found it then is tried first")
    parser.add_argument("--until", choices=STAGES, default="folder", help="the last tests to run for a fault (default: its folder's)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="faults at a time")
    parser.add_argument("--out", type=Path, help="write counts and outcomes to this JSON file, after each fault")
    return parser


def main() -> int:
    """Returns the exit code: 1 if a fault without a `harmless` reason survived, 2 if there is nothing to plant."""
    args, start = build_parser().parse_args(), time.monotonic()
    try:
        faults = choose(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = {(row["path"], row["fault"]): row["test"] for row in (read_outcomes(args.before) if args.before else [])}
    so_far: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        print(outcome.line(), flush=True)
        so_far.append(outcome)
        write(args.out, summary(so_far, time.monotonic() - start))

    outcomes = plant(faults, args.jobs, report, args.until, known)
    result = summary(outcomes, time.monotonic() - start)
    print(json.dumps({key: value for key, value in result.items() if key != "faults"}, indent=1))
    for outcome in outcomes:
        if not outcome.test and not outcome.harmless:
            print(f"survived: {outcome.path}: {outcome.fault} {outcome.how}".rstrip())
        if outcome.test and outcome.harmless:
            print(f"listed as harmless, but noticed: {outcome.path}: {outcome.fault} by {outcome.test}")
    write(args.out, result)
    return int(result["noticed"] < result["planted"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the copies are removed
    sys.exit(main())
