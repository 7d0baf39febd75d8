"""A tiny run on the cluster: submit it, follow it, and compare its end with an undisturbed run."""

import json
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import newest
from tests.disturbed import curve_of, finished, state_of
from tests.launching import PRETRAIN, overrides, start_ranks
from tests.slurm.cluster import Cluster

SBATCH = "launch/pretrain.sbatch"
SIGNAL_SECONDS = 30
SIGNAL = f"--signal=B:USR2@{SIGNAL_SECONDS}"
"""Option of sbatch for tests of a time limit: the shipped batch script's five minutes are longer than these jobs."""
LONG_MINUTES = 10
RANK = "pretrain_text.py --local_rank"
STEPS = 300
NUMBERS: dict[str, object] = {
    **{"run__max_steps": STEPS, "run__save_steps": 25, "run__log_steps": 1, "run__eval_steps": STEPS, "checkpoint__keep_last": 2},
    **{"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1},
}
"""Settings for some seconds of training, with a checkpoint about every second."""


def the_rank(slurm: Cluster, node: str) -> int:
    """Return the process id of a node's only rank: the last matching process, after the launcher's two with the same command line."""
    return slurm.pids(node, RANK)[-1]


def set_time_limit(slurm: Cluster, job: str, minutes: int) -> None:
    """Set the job's time limit, in minutes from its start."""
    done = slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    assert done.returncode == 0, done.stderr


def reach_time_limit(slurm: Cluster, job: str) -> None:
    """Shorten the time limit until the signal is sent, then extend it for the next attempt. Slurm checks limits every half minute, longer
    than these runs take. So the ranks are stopped until the signal is pending for each of them."""
    ranks = {node: the_rank(slurm, node) for node in slurm.nodes}
    for node, rank in ranks.items():
        slurm.on_node(node, "kill", "-STOP", rank)
    set_time_limit(slurm, job, (slurm.seconds(job) + SIGNAL_SECONDS + 10) // 60 + 1)
    slurm.wait_until(lambda: all(_has_usr2(slurm, node, rank) for node, rank in ranks.items()), 120, job)
    set_time_limit(slurm, job, LONG_MINUTES)
    for node, rank in ranks.items():
        slurm.on_node(node, "kill", "-CONT", rank)


def _has_usr2(slurm: Cluster, node: str, pid: int) -> bool:
    """True if the signal is pending for a stopped process."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", slurm.on_node(node, "cat", f"/proc/{pid}/status").stdout, re.M)
    return pending is not None and bool(int(pending[1], 16) & 1 << signal.SIGUSR2 - 1)


ASK: dict[str, Callable[[Cluster, str], object]] = {
    "USR2 to the steps": lambda slurm, job: slurm.run("scancel", "--signal=USR2", job),
    "USR2 to the batch script": lambda slurm, job: slurm.run("scancel", "--signal=USR2", "--batch", job),
    "scontrol requeue": lambda slurm, job: slurm.run("scontrol", "requeue", job),
    "time limit": reach_time_limit,
}
"""Ways to request a stop of a training job that was submitted with SIGNAL."""


@dataclass(frozen=True)
class Run:
    """A text run in `path`, which may be submitted several times."""

    slurm: Cluster
    data: Path
    path: Path

    def command(self, **changes: object) -> list[object]:
        """Return the arguments of launch/pretrain.sbatch."""
        flags = ["--data", self.data, "--run-dir", self.path, *overrides(**{**NUMBERS, **changes})]
        return ["launch/pretrain_text.py", *flags]

    def submit(self, *words: object, env: dict[str, str] | None = None, **changes: object) -> str:
        """Submit the run and return the job's number. `words` are options of sbatch."""
        return self.slurm.submit(*words, SBATCH, *self.command(**changes), **(env or {}))

    @property
    def step(self) -> int:
        """Return the step of the last line of metrics.jsonl."""
        rows = self.path / "metrics.jsonl"
        lines = rows.read_text().splitlines() if rows.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of events.jsonl of these kinds."""
        path = self.path / "events.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["event"] in kinds]

    def wait_for_step(self, step: int, job: str, timeout: float = 120) -> None:
        """Wait until `step` updates are logged."""
        self.slurm.wait_until(lambda: self.step >= step, timeout, job)

    def attempts(self) -> list[dict[str, Any]]:
        """Return the rows of attempts.jsonl, which the batch scripts write."""
        path = self.path / "attempts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Undisturbed:
    """The result of the same run on the same number of ranks of one machine, undisturbed."""

    state: dict[str, str]
    curve: list[dict[str, Any]]

    @staticmethod
    def of(data: Path, folder: Path, size: int) -> "Undisturbed":
        """Run it and return the result."""
        path = folder / f"undisturbed_{size}"
        args = ["--data", data, "--run-dir", path, *overrides(**NUMBERS)]
        finished(start_ranks(PRETRAIN["text"], args, folder, size).wait(300))
        return Undisturbed(_last_state(path), curve_of(path))

    def check(self, run: Run) -> None:
        """Assert that weights, moments, teacher, counters and every logged number are the same, bit for bit."""
        ours = curve_of(run.path)
        differing = [f"{a} != {b}" for a, b in zip(ours, self.curve, strict=False) if a != b]
        assert not differing and len(ours) == len(self.curve), (len(ours), len(self.curve), differing[:1])
        assert _last_state(run.path) == self.state


def _last_state(path: Path) -> dict[str, str]:
    found = newest(path)
    assert found, f"no checkpoint in {path}"
    return state_of(found)
