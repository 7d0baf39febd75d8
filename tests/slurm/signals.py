"""Find which process gets which signal under `srun -> deepspeed -> ranks` and under `srun -> ranks`: a job whose ranks log the signals
they get and the end of their parent. The table of docs/slurm.md comes from it.

python -m tests.slurm.signals
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster, cluster

RANK = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[-1], "rank" + os.environ.get("RANK", os.environ.get("SLURM_PROCID", "")))
def say(text):
    with log.open("a") as file:
        print(text, file=file)
for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: say(signal.Signals(number).name))
parent, end = os.getppid(), time.monotonic() + 6
say("ready")
while time.monotonic() < end:
    time.sleep(0.1)
    if os.getppid() != parent:
        say("parent gone")
        parent = os.getppid()
say("end")
"""
BATCH = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --exclusive --time=5
for name in USR2 TERM INT; do trap "echo SIG$name >>$PROBE/batch" $name; done
srun --ntasks-per-node=1 bash -c "$STEP" &
step=$!; echo $step >$PROBE/srun
while kill -0 $step 2>/dev/null; do wait $step; done
"""
LAUNCHER = """scontrol show hostnames | sed 's/$/ slots=1/' >/tmp/hosts_probe
where="--hostfile /tmp/hosts_probe --no_ssh --node_rank=$SLURM_NODEID --master_addr node1 --master_port 22222"
exec deepspeed --log_level=critical $where $PROBE/rank.py $PROBE"""
STEPS = {
    "launcher": LAUNCHER,
    "launcher that ignores": f"trap '' USR2 TERM INT; {LAUNCHER}",
    "ranks alone": "exec python $PROBE/rank.py $PROBE",
}


def to_srun(slurm: Cluster, job: str, signal: str) -> object:
    """Send the signal to srun, on the node of the batch script."""
    return slurm.on_node("node1", "pkill", f"-{signal}", "-o", "-x", "srun")


WAYS: dict[str, Callable[[Cluster, str, str], object]] = {
    "scancel": lambda slurm, job, signal: slurm.run("scancel", f"--signal={signal}", job),
    "scancel --batch": lambda slurm, job, signal: slurm.run("scancel", f"--signal={signal}", "--batch", job),
    "scancel --full": lambda slurm, job, signal: slurm.run("scancel", f"--signal={signal}", "--full", job),
    "kill srun": to_srun,
    "scontrol requeue": lambda slurm, job, signal: slurm.run("scontrol", "requeuehold", job),
    "scancel JOB": lambda slurm, job, signal: slurm.run("scancel", job),
}


def probe(slurm: Cluster, step: str, way: str, signal: str) -> dict[str, list[str]]:
    """Send `signal` in this `way` to a job with this `step`. Return the log of rank0, rank1 and the batch script."""
    folder = Path(tempfile.mkdtemp(prefix="probe_", dir=slurm.folder))
    (folder / "rank.py").write_text(RANK)
    (folder / "job.sbatch").write_text(BATCH)
    job = slurm.submit(folder / "job.sbatch", PROBE=str(folder), STEP=STEPS[step])
    logs = [folder / "rank0", folder / "rank1"]
    slurm.wait_until(lambda: all(log.exists() for log in logs), 90, job)
    WAYS[way](slurm, job, signal)
    slurm.wait_until(lambda: slurm.state(job) not in ("RUNNING", "COMPLETING"), 60, job)
    time.sleep(7 if way in ("scontrol requeue", "scancel JOB") else 0)  # KillWait
    received = {log.name: log.read_text().split("\n")[1:-1] for log in logs}
    batch = folder / "batch"
    return received | {"batch": batch.read_text().split() if batch.exists() else []}


def main() -> int:
    """Print every row of the table."""
    with tempfile.TemporaryDirectory(prefix="signals_", ignore_cleanup_errors=True) as place, cluster(Path(place, "cluster")) as slurm:
        for way in WAYS:
            signals = ("USR2", "TERM", "INT") if way in ("scancel", "kill srun") else ("TERM",) if "--" not in way else ("USR2",)
            for signal in signals:
                for step in STEPS:
                    print(f"{way} {signal}, {step}: {probe(slurm, step, way, signal)}", flush=True)
                    slurm.clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())
