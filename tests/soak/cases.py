"""Run scripts that show users' problems (one situation each, on real commands) one after another, and check their output.

python -m tests.soak.cases ../shared/cases                 all of them
python -m tests.soak.cases ../shared/cases --only data/0   scripts whose name begins with data/0

A script of data/ prints its own results, ok or not. The required output of a script of train/ is in cases.toml. The correct values are
tested by the mirrored tests; this command runs the scripts as they were written.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_suffix(".toml")
TIMEOUT_SECONDS = 900
RESULT = re.compile(r"^verd\w+: +(\w+)", re.MULTILINE)  # a line of a script of data/, with its own word for a result


@dataclass(frozen=True)
class Case:
    """Requirements for a script's output, and edits that the script needs with the current code."""

    expect: tuple[str, ...] = ()
    """Regular expressions that must match in the text after SEEN."""
    forbid: tuple[str, ...] = ()
    results: int = 0
    """Number of results that the script prints. All must be ok."""
    needs_root: bool = False
    edits: tuple[tuple[str, str], ...] = ()
    """Old and new text, if the script uses names that have changed since it was written."""
    left_out: str = ""
    """Why the script is not run."""


def read_cases(path: Path = LIST) -> dict[str, Case]:
    """Return the list by the script's name, such as data/04-tsv-stray-quote.py."""
    listed = tomllib.loads(path.read_text())
    return {
        name: Case(**{key: tuple(map(_frozen, value)) if isinstance(value, list) else value for key, value in case.items()})
        for name, case in listed.items()
    }


def _frozen(value: str | list[str]) -> str | tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else value


def faults_of(case: Case, output: str) -> list[str]:
    """Return what is wrong in a script's output."""
    seen = output.partition("SEEN:")[2] or output
    results = RESULT.findall(output)
    faults = [f"missing: {pattern}" for pattern in case.expect if not re.search(pattern, seen)]
    faults += [f"there: {pattern}" for pattern in case.forbid if re.search(pattern, seen)]
    if len(results) != case.results or set(results) - {"ok"}:
        faults.append(f"results: {', '.join(results) or 'none'}, should be {case.results} times ok")
    return faults


def run_script(script: Path, case: Case, work: Path) -> str:
    """Run a script in the project's root with this Python, and return its output. Raises: AssertionError if an edit no longer fits."""
    text = script.read_text()
    for old, new in case.edits:
        assert old in text, f"{script}: no longer contains {old!r}"
        text = text.replace(old, new)
    copy = work / script.name
    copy.write_text(text)
    command = [sys.executable if script.suffix == ".py" else "bash", str(copy)]
    environment = {**os.environ, "VENV": sys.prefix, "PY": sys.executable, "WORK": str(work)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS)
    return done.stdout + done.stderr


def main() -> int:
    """Run the scripts, check and print. Returns the exit code: 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="only names with this prefix")
    parser.add_argument("--verbose", action="store_true", help="print what each script prints")
    args = parser.parse_args()
    cases = {name: case for name, case in read_cases().items() if name.startswith(args.only)}
    num_bad = num_run = 0
    with tempfile.TemporaryDirectory(prefix="cases-") as work:
        for name, case in cases.items():
            reason = case.left_out or ("needs root" if case.needs_root and os.geteuid() else "")
            if reason:
                print(f"{name}: not run, {reason}", flush=True)
                continue
            start = time.monotonic()
            output = run_script(args.folder / name, case, Path(work))
            faults = faults_of(case, output)
            num_run, num_bad = num_run + 1, num_bad + bool(faults)
            print(f"{name}: {'; '.join(faults) or 'as expected'} ({time.monotonic() - start:.0f} s)", flush=True)
            if faults or args.verbose:
                print("    " + output.strip().replace("\n", "\n    "), flush=True)
    print(f"{num_run - num_bad} of {num_run} as expected")
    return int(num_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
