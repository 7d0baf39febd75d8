"""Plants faults into copies of the checkout, one at a time, and says which test of the fast suite notices each.

python -m tests.soak.plant                                        every list, tests/**/planted.toml
python -m tests.soak.plant recipes/train recipes/checkpoint/save.py --out results/plant.json
python -m tests.soak.plant recipes/train --make wiring            arguments left out, calls left out, calls in another order
python -m tests.soak.plant recipes/train/guard.py --make mutants --sample 40      cosmic-ray's (the extra `mutation`)

For each fault the tests of its module run first (test_MODULE.py, then the other tests of its folder that import it), for those that
survive the rest of the folder, with --until launch the tests of the commands, and with --until suite the whole fast suite. What noticed
a fault must pass without it: tried at the end.
"""

import argparse
import json
import os
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

from tests.planted import Planted, WiringFaults, listed, mutants
from tests.soak.warm import WarmPytest

ROOT = Path(__file__).parents[2]
HOUSE = ("model", "recipes")
FAST = "not slow and not slurm and not gpu"
STAGES = ("module", "folder", "launch", "suite")
NOT_IN_A_COPY = "tests/test_house.py::test_the_installed_packages_are_this_checkout"
TEST_SECONDS, STAGE_SECONDS, SUITE_SECONDS = 120, 600, 2400
"""Of one test, of the tests of a module or folder, of the whole suite; a fault that makes a test hang is noticed by that."""


@dataclass(frozen=True)
class Outcome:
    """What became of a planted fault. `test` noticed it ("" where none did) and said `how`; `stage`: the last one that ran."""

    path: str
    fault: str
    harmless: str
    stage: str
    test: str
    how: str
    seconds: float

    def line(self) -> str:
        """For the terminal."""
        verdict = f"{self.stage}: {self.test}" if self.test else "harmless" if self.harmless else "SURVIVED"
        return f"{self.seconds:5.0f} s  {self.path}: {self.fault}\n         {verdict}"


class Copy:
    """A copy of the checkout in which one fault at a time stands."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
        )
        for name in filter(None, names.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._imports = _imports_of_tests(folder)
        self._pytest = WarmPytest(folder)

    def judge(self, fault: Planted, until: str, known: str) -> Outcome:
        """Plant it, run its tests stage by stage until one notices it, and take it out again. `known`: a test that did before ("")."""
        path, start = self.root / fault.path, time.monotonic()
        original = path.read_text()
        path.write_text(fault.text)
        stage, test, how = "", "", ""
        try:
            for stage, tests in self._stages(fault.path, STAGES[0] if fault.harmless else until, known):
                test, how = self.run(tests, SUITE_SECONDS if stage == "suite" else STAGE_SECONDS)
                if test:
                    break
        finally:
            path.write_text(original)
        return Outcome(fault.path, fault.fault, fault.harmless, stage, test, how, round(time.monotonic() - start, 1))

    def _stages(self, path: str, until: str, known: str) -> Iterator[tuple[str, list[str]]]:
        if known and (self.root / known.partition("::")[0]).exists():
            yield "known", [known]
        module, folder = Path(path).with_suffix("").as_posix().replace("/", "."), Path("tests", path).parent
        mirror, done = (folder / f"test_{Path(path).stem}.py").as_posix(), set[str]()
        inside = [name for name in self._imports if Path(name).is_relative_to(folder) and name != mirror]
        near = [mirror, *(name for name in inside if module in self._imports[name] and Path(name).parent == folder)]
        commands = [name for name in self._imports if name.startswith("tests/launch/")]
        for stage, tests in zip(STAGES, (near, inside, commands, list(self._imports)), strict=True):
            if new := [test for test in tests if test not in done]:
                yield stage, new
            done |= set(tests)
            if stage == until:
                return

    def run(self, tests: list[str], seconds: float) -> tuple[str, str]:
        """(the first test that fails, why), or two empty strings where all pass. Tests that hang count as failing.

        Raises: RuntimeError where the run was killed from outside, which says nothing about the fault.
        """
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", FAST, f"--timeout={TEST_SECONDS}", f"--deselect={NOT_IN_A_COPY}"]
        code, output = self._pytest.run([*options, *tests], seconds)
        if code is None:
            return " ".join(tests), f"not done after {seconds:g} s"
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            name = signal.Signals(-code).name
            raise RuntimeError(f"a run of {' '.join(tests)} was killed from outside ({name}); plant again with more memory")
        if code in (0, 5) or (code == 4 and "not found:" in output):  # 5: none is a fast one; 4: what noticed it before is gone
            return "", ""
        failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - (.*))?$", output, re.MULTILINE)
        return (failed[1], failed[2] or "") if failed else (" ".join(tests), output[-500:])

    def close(self) -> None:
        """End its process."""
        self._pytest.close()


def _imports_of_tests(root: Path) -> dict[str, set[str]]:
    """Test file -> modules of the house that it mentions, also through the helpers in tests/ that it imports."""
    mentions = {path.relative_to(root).as_posix(): _mentions(path.read_text()) for path in sorted((root / "tests").rglob("*.py"))}

    def follow(name: str, seen: set[str]) -> set[str]:
        helpers = {f"{module.replace('.', '/')}.py" for module in mentions[name] if module.startswith("tests.")} & mentions.keys()
        return mentions[name].union(*(follow(helper, seen | {name}) for helper in helpers - seen - {name}))

    return {name: follow(name, set()) for name in mentions if Path(name).name.startswith("test_")}


def _mentions(text: str) -> set[str]:
    found = set(re.findall(r"\b(?:tests|model|recipes)(?:\.\w+)+", text))
    for package, names in re.findall(r"from ((?:tests|model|recipes)[\w.]*) import ([\w, ]+)", text):
        found |= {f"{package}.{name.split(' as ')[0].strip()}" for name in names.split(",")}
    return found


def house_files(chosen: list[str]) -> list[str]:
    """The modules of the house below these files and folders (all where none are given)."""
    files = sorted(path.relative_to(ROOT).as_posix() for folder in HOUSE for path in (ROOT / folder).rglob("*.py"))
    return [file for file in files if not chosen or any(f"{file}/".startswith(f"{path.rstrip('/')}/") for path in chosen)]


def choose(args: argparse.Namespace) -> list[Planted]:
    """The faults that the command asks for."""
    files = house_files(args.paths)
    if args.make == "wiring":
        maker = WiringFaults(ROOT, house_files([]))
        found = [fault for file in files for fault in maker.of(file)]
    elif args.make == "mutants":
        found = [fault for file in files for fault in mutants(ROOT, file)]
    else:
        found = [fault for fault in listed(ROOT) if fault.path in files]
    found = [fault for fault in found if args.match in fault.fault]
    if args.again:
        survived = {(row["path"], row["fault"]) for row in read_outcomes(args.again) if not row["test"]}
        found = [fault for fault in found if (fault.path, fault.fault) in survived]
    if args.sample and args.sample < len(found):
        found = random.Random(args.seed).sample(found, args.sample)
    return found


def plant(
    faults: list[Planted], jobs: int, told: Callable[[Outcome], Any], until: str, known: dict[tuple[str, str], str] | None = None
) -> list[Outcome]:
    """Judge each fault, `jobs` at a time, each in a copy of its own; `told` receives the outcomes as they come. `known`: (path, fault) ->
    the test that noticed it before, which is then tried first."""
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
            told(outcome)
            return outcome

        with ThreadPoolExecutor(jobs) as threads:
            outcomes = list(threads.map(judge, faults))
        return _only_reliable(outcomes, copies.get())


def read_outcomes(path: Path) -> list[dict[str, Any]]:
    """The faults of a file that --out wrote."""
    outcomes: list[dict[str, Any]] = json.loads(path.read_text())["faults"]
    return outcomes


def _only_reliable(outcomes: list[Outcome], clean: Copy) -> list[Outcome]:
    """A test that also fails without a fault has noticed nothing."""
    functions, broken = {_function(outcome.test) for outcome in outcomes if "::" in outcome.test}, set[str]()
    while functions - broken:
        test, _ = clean.run(sorted(functions - broken), SUITE_SECONDS)
        if not test:
            break
        broken.add(_function(test))
    how = "noticed by {}, which fails without the fault"
    return [replace(one, test="", how=how.format(one.test)) if _function(one.test) in broken else one for one in outcomes]


def _function(test: str) -> str:
    """A test without its parameters, whose names may hold anything."""
    return test.partition("[")[0]


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Counts by package, and every fault with what noticed it."""
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
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "faults": [asdict(outcome) for outcome in outcomes],
    }


def main() -> int:
    """Exit code 1 where a fault that is not argued to be harmless survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files and folders of model/ and recipes/ (default: all)")
    parser.add_argument("--make", choices=("wiring", "mutants"), help="generated faults instead of the lists'")
    parser.add_argument("--match", default="", help="only faults in whose description this stands")
    parser.add_argument("--sample", type=int, help="so many of them, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="only the faults that survived according to this file of --out")
    parser.add_argument("--before", type=Path, help="a file of --out: for each fault the test that noticed it then is tried first")
    parser.add_argument("--until", choices=STAGES, default="folder", help="the last tests that a fault meets (default: its folder's)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="faults at a time")
    parser.add_argument("--out", type=Path, help="write counts and outcomes to this JSON file")
    args = parser.parse_args()
    start, faults = time.monotonic(), choose(args)
    known = {(row["path"], row["fault"]): row["test"] for row in (read_outcomes(args.before) if args.before else [])}
    outcomes = plant(faults, args.jobs, lambda outcome: print(outcome.line(), flush=True), args.until, known)
    result = summary(outcomes, time.monotonic() - start)
    print(json.dumps({key: value for key, value in result.items() if key != "faults"}, indent=1))
    for outcome in outcomes:
        if not outcome.test and not outcome.harmless:
            print(f"survived: {outcome.path}: {outcome.fault} {outcome.how}".rstrip())
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(result["noticed"] < result["planted"])


if __name__ == "__main__":
    sys.exit(main())
