"""Pre-empt jobs and cut power at random moments on a real Slurm of three nodes. Each job of two nodes must be requeued by itself and end
with the weights, moments, teacher, counters and curve of an undisturbed run, bit for bit.

python -m tests.soak.slurm --ask 20 --power 10 --out results/slurm.json

The ways of a stop request are used in turn: scontrol requeue, time limit, USR2 to the steps and to the batch script. A moment is between
submission and end of an undisturbed job, so that it may fall into the dry run, the preflight, the start, the training or the stop;
Slurm chooses that of a time limit, since it checks limits every half minute.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from recipes.errors import ConfigError
from tests.disturbed import conclude, prepare
from tests.slurm.cluster import ENDED, Cluster, cluster, missing
from tests.slurm.runs import ASK, LONG_MINUTES, Run, Undisturbed, set_time_limit

TRIES = 8
SOONER = 0.7
"""If a job ended before its moment, it is tried again at this fraction of the moment."""
PROBLEMS = (AssertionError, ConfigError, OSError, subprocess.TimeoutExpired)


def cut_power(slurm: Cluster, job: str, rng: random.Random) -> str:
    """Power off one of the job's nodes, and start it again when Slurm has noticed."""
    nodes = slurm.run("scontrol", "show", "hostnames", slurm.facts(job)["NodeList"]).stdout.split()
    node = rng.choice(nodes)
    slurm.power_off(node)
    slurm.wait_until(lambda: slurm.facts(job)["Restarts"] != "0" or slurm.state(job) in ENDED, 120, job)
    slurm.power_on(node)
    return node


def disturb(run: Run, way: str, moment: float, rng: random.Random) -> str | None:
    """Submit, disturb, wait for the end. Returns what the job was doing, or None if it had ended before."""
    doing = reach_its_time_limit(run) if way == "time limit" else strike(run, way, moment, rng)
    assert not run.slurm.processes("pretrain_text.py"), "processes are left"
    return doing


def reach_its_time_limit(run: Run) -> str | None:
    """Submit a job whose signal is due at Slurm's next check of limits. The next attempt gets enough time."""
    slurm = run.slurm
    job = run.submit("--nodes=2", "--signal=B:USR2@90", "--time=2")
    slurm.wait_until(lambda: slurm.facts(job)["Restarts"] != "0" or slurm.state(job) in ENDED, 180, job)
    if slurm.facts(job)["Restarts"] == "0":
        end_well(slurm, job)
        return None
    set_time_limit(slurm, job, LONG_MINUTES)
    end_well(slurm, job)
    steps = [stop["step"] for stop in run.events("stop") if stop["reason"] == "SIGUSR2"]
    return f"training (step {steps[0]})" if steps else "starting"


def end_well(slurm: Cluster, job: str) -> None:
    """Wait until the job is done. If it ends in another way, fail with its output."""
    state = slurm.wait(job, 300)
    assert state == "COMPLETED", f"{state}:\n{slurm.output(job)[-3000:]}"


def strike(run: Run, way: str, moment: float, rng: random.Random) -> str | None:
    """Disturb the job `moment` seconds after the start."""
    slurm = run.slurm
    job = run.submit("--nodes=2", f"--time={LONG_MINUTES}")
    slurm.wait_until(lambda: slurm.state(job) != "PENDING", 60, job)
    time.sleep(moment)
    if slurm.state(job) != "RUNNING":
        end_well(slurm, job)
        return None
    starts, stops = run.events("start"), run.events("stop")
    doing = "leaving" if stops else f"training (step {run.step})" if starts else "starting" if "fit:" in slurm.output(job) else "preparing"
    if way == "power":
        doing += f", {cut_power(slurm, job, rng)} of two"
    else:
        ASK[way](slurm, job)
    end_well(slurm, job)
    return doing


def run_case(place: Run, undisturbed: Undisturbed, way: str, seconds: float, rng: random.Random) -> str:
    """Run a case. Returns what was disturbed. The path of `place` gets a number for each try. Raises: one of PROBLEMS."""
    moment = rng.uniform(0, seconds)
    for attempt in range(TRIES):
        run = replace(place, path=place.path.with_name(f"{place.path.name}_{attempt}"))
        doing = disturb(run, way, moment * SOONER**attempt, rng)
        undisturbed.check(run)
        if doing:
            return doing
    raise AssertionError("never struck")


def run_all(slurm: Cluster, ways: list[str], rng: random.Random) -> tuple[Counter[str], list[dict[str, object]]]:
    """Run every case and print a line for each: what was disturbed, and what failed."""
    data = prepare(slurm.folder)
    undisturbed = Undisturbed.of(data, slurm.folder, 2)
    start = time.monotonic()
    quiet = Run(slurm, data, slurm.folder / "quiet")
    slurm.wait(quiet.submit("--nodes=2"))
    undisturbed.check(quiet)
    seconds = time.monotonic() - start
    kinds, failures = Counter[str](), list[dict[str, object]]()
    for number, way in enumerate(ways, 1):
        start = time.monotonic()
        try:
            result = run_case(Run(slurm, data, slurm.folder / f"run_{number}"), undisturbed, way, seconds, rng)
            kinds[f"{way}: {result.split(' (')[0].split(',')[0]}"] += 1
        except PROBLEMS as problem:
            failures.append({"case": number, "way": way, "problem": f"{type(problem).__name__}: {problem}"})
            result = f"FAILED: {problem}"
            slurm.clear()
        print(f"{number}/{len(ways)} {way}: {result} ({time.monotonic() - start:.1f} s)", flush=True)
    return kinds, failures


def main() -> int:
    """Returns the exit code: 1 if a case fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", type=int, default=20, help="pre-emptions")
    parser.add_argument("--way", action="append", choices=list(ASK), help="pre-empt in this way only; may be repeated")
    parser.add_argument("--power", type=int, default=10, help="power cuts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    args = parser.parse_args()
    reason = missing()
    if reason:
        parser.error(reason)
    begin = time.monotonic()
    asked = args.way or list(ASK)
    ways = [asked[number % len(asked)] for number in range(args.ask)] + ["power"] * args.power
    with (
        tempfile.TemporaryDirectory(prefix="soak_", ignore_cleanup_errors=True) as folder,
        cluster(Path(folder, "cluster"), 3, NODE_TIMEOUT="10") as slurm,
    ):
        kinds, failures = run_all(slurm, ways, random.Random(args.seed))
    facts = {"soak": "slurm", "seed": args.seed, "count": len(ways), "passed": len(ways) - len(failures)}
    return conclude({**facts, "kinds": kinds, "failures": failures}, begin, args.out)


if __name__ == "__main__":
    sys.exit(main())
