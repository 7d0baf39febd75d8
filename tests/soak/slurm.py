"""Stops jobs by pre-emption and power cuts at random moments, on a real Slurm of three nodes. Each job of two nodes must restart by itself
and end with the weights, moments, teacher, counters and curve of a run without any fault, bit for bit.

python -m tests.soak.slurm --ask 20 --power 10 --out results/slurm.json

The ways of pre-emption take turns: scontrol requeue, the time limit, USR2 to the steps and to the batch script. The moment is drawn
between the submission and the end of a job without any fault, so it may be in the dry run, the preflight, the start, the training or the
end. For a time limit Slurm decides the moment: it checks limits every half minute.
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
"""If a job ended before the moment, the case is repeated with the moment multiplied by this."""
PROBLEMS = (AssertionError, ConfigError, OSError, subprocess.TimeoutExpired)


def cut_power(slurm: Cluster, job: str, rng: random.Random) -> str:
    """Cut the power of one of the job's nodes, start it again when Slurm has noticed, and return its name."""
    nodes = slurm.run("scontrol", "show", "hostnames", slurm.facts(job)["NodeList"]).stdout.split()
    node = rng.choice(nodes)
    slurm.power_off(node)
    slurm.wait_until(lambda: slurm.facts(job)["Restarts"] != "0" or slurm.state(job) in ENDED, 120, job)
    slurm.power_on(node)
    return node


def disturb(run: Run, way: str, moment: float, rng: random.Random) -> str | None:
    """Submit a job, stop it in this way `moment` seconds after its start, and wait until it is done. Returns what the job was doing; None
    if it had ended before."""
    doing = reach_its_time_limit(run) if way == "time limit" else strike(run, way, moment, rng)
    assert not run.slurm.processes("pretrain_text.py"), "processes are left"
    return doing


def reach_its_time_limit(run: Run) -> str | None:
    """Run a job that gets the signal of its time limit as soon as Slurm checks limits. The next attempt gets enough time. Returns what the
    job was doing; None if it had ended before."""
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
    """Wait until the job is done. Fails with its output if it ends in another way."""
    state = slurm.wait(job, 300)
    assert state == "COMPLETED", f"{state}:\n{slurm.output(job)[-3000:]}"


def strike(run: Run, way: str, moment: float, rng: random.Random) -> str | None:
    """Submit a job, stop it `moment` seconds after its start, and wait until it is done. Returns what it was doing; None if it had ended
    before."""
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
    """Stop a job in this way at a random moment, up to `seconds` after its start, and check its result. Returns what the job was doing.
    The run dir of each try is that of `place` with a number. Raises: one of PROBLEMS if a check fails."""
    moment = rng.uniform(0, seconds)
    for attempt in range(TRIES):
        run = replace(place, path=place.path.with_name(f"{place.path.name}_{attempt}"))
        doing = disturb(run, way, moment * SOONER**attempt, rng)
        undisturbed.check(run)
        if doing:
            return doing
    raise AssertionError("never struck")


def run_all(slurm: Cluster, ways: list[str], rng: random.Random) -> tuple[Counter[str], list[dict[str, object]]]:
    """Run a case for each of `ways`, with a line for each. Returns how often jobs were stopped in which way and activity, and the
    failures."""
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
    """Run all cases and print the result. Returns the exit code: 1 if a case fails, else 0."""
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
