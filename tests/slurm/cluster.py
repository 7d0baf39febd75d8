"""Runs a real Slurm of several nodes on this machine, for tests: the nodes are namespaces made by tests/slurm/slurm-up. Also has the
commands that a user types. Needs root and Debian's packages (tests/slurm/slurm-up --install)."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare", "nsenter")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def missing() -> str | None:
    """Return why this machine cannot run such a Slurm; None if it can."""
    if os.geteuid() != 0:
        return "a Slurm cluster of namespaces needs root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if not shutil.which(name, path=path)]
    if lacking:
        return f"{', '.join(lacking)} not installed; tests/slurm/slurm-up --install"
    words = ["unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "true"]
    probe = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"this machine has no namespaces for nodes ({probe.stderr.strip()})" if probe.returncode else None


@dataclass
class Cluster:
    """A running Slurm cluster. `folder`: the file system that its nodes share."""

    folder: Path
    env: dict[str, str]
    num_nodes: int

    def run(self, *command: object, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user on the login node, in the checkout, and return its exit code and output. `env` is added to the
        environment."""
        words = [str(word) for word in command]
        return subprocess.run(words, cwd=ROOT, env={**self.env, **env}, capture_output=True, text=True, timeout=timeout, check=False)

    def submit(self, *words: object, **env: str) -> str:
        """Submit a job: `words` are the arguments of sbatch. Returns the job's number; output(job) reads what it prints. Fails if sbatch
        does."""
        done = self.run("sbatch", "--parsable", f"--output={self.folder}/slurm-%A_%a-%j.out", *words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().split(";")[0]

    def output(self, job: str) -> str:
        """Return what the job has printed so far, in all its attempts."""
        return "".join(path.read_text(errors="replace") for path in self.outputs(job))

    def outputs(self, job: str = "*") -> list[Path]:
        """Return the files into which the job, or every job, has printed so far."""
        return sorted(self.folder.glob(f"slurm-*-{job}.out"))

    def state(self, job: str) -> str:
        """Return the state of the job as squeue prints it: PENDING, RUNNING, COMPLETED, ..."""
        return self.run("squeue", "-t", "all", "-h", "-j", job, "-o", "%T").stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` prints, as key -> value."""
        shown = self.run("scontrol", "show", "job", "-o", job).stdout
        return dict(re.findall(r"(\w+)=(.*?)(?= \w+(?::\w+)?=|$)", shown.strip()))

    def seconds(self, job: str) -> int:
        """Return for how many seconds the present attempt of the job has run. Right only below one day."""
        clock = self.run("squeue", "-h", "-j", job, "-o", "%M").stdout.strip()
        return sum(int(part) * 60**place for place, part in enumerate(reversed(clock.split(":"))))

    def wait(self, job: str, timeout: float = 180) -> str:
        """Wait until the job has ended or is held, and return its state. Fails with its output after `timeout` seconds."""

        def ended() -> bool:
            state = self.state(job)
            return state in ENDED or (state == "PENDING" and "held" in self.facts(job).get("Reason", "").lower())

        self.wait_until(ended, timeout, job)
        return self.state(job)

    def wait_until(self, happened: Callable[[], bool], timeout: float, job: str) -> None:
        """Wait until `happened()` returns True. Fails with the job's output after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not happened():
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} is {self.state(job)} after {timeout:g} s:\n{self.output(job)[-6000:]}")
            time.sleep(0.1)

    def on_node(self, node: str, *command: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, outside of Slurm, and return its exit code and output."""
        return self.run(HERE / "slurm-node", "exec", self.folder, node, *command, timeout=timeout)

    def power_off(self, node: str) -> None:
        """Kill every process of the node at once, as a power cut would."""
        assert self.run(HERE / "slurm-node", "off", self.folder, node).returncode == 0

    def power_on(self, node: str) -> None:
        """Start the node again. Does not wait until Slurm uses it."""
        done = self.run(HERE / "slurm-node", "start", self.folder, node)
        assert done.returncode == 0, done.stderr

    def pids(self, node: str, pattern: str) -> list[int]:
        """Return the process ids, as seen on the node, of its processes whose command line matches `pattern`, oldest first."""
        return [int(pid) for pid in self.on_node(node, "pgrep", "-f", pattern).stdout.split()]

    def processes(self, pattern: str) -> list[str]:
        """Return `NODE:PID` of every process on any node whose command line matches `pattern`."""
        return [f"{node}:{pid}" for node in self.nodes for pid in self.pids(node, pattern)]

    @property
    def nodes(self) -> list[str]:
        """The names of all nodes."""
        return [f"node{number + 1}" for number in range(self.num_nodes)]

    def clear(self) -> None:
        """Cancel all jobs, start every node, and wait up to a minute until no job is left."""
        self.run("scancel", "--user=root")
        for node in self.nodes:
            self.power_on(node)
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        deadline = time.monotonic() + 60
        while self.run("squeue", "-h", "-o", "%i").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.2)


@contextlib.contextmanager
def cluster(folder: Path, num_nodes: int = 2, **settings: str) -> Iterator[Cluster]:
    """Start a cluster of `num_nodes` nodes in `folder`, and stop it at the end of the block. `settings`: variables of slurm-up without
    their prefix SLUP_."""
    number = os.getpid()
    mine = {"NODES": str(num_nodes), "NET": f"10.214.{1 + number % 250}", "PORT": str(16_000 + number % 900), **settings}
    if str(ROOT).startswith("/tmp/"):
        mine["SHARED"] = str(ROOT)
    up = {**os.environ, **{f"SLUP_{key}": value for key, value in mine.items()}}
    done = subprocess.run([HERE / "slurm-up", folder], env=up, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/etc/slurm.conf", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        env.pop(name, None)
    try:
        yield Cluster(folder, env, num_nodes)
    finally:
        subprocess.run([HERE / "slurm-down", folder], env=up, capture_output=True, timeout=60, check=False)
