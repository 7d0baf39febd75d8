"""Submits the runs of a study as Slurm job arrays, and asks Slurm which of them are queued or running. Torch-free.

A job array has one number of nodes, so there is one for each number of nodes. launch/scaling.sbatch runs one line of the grid file a task.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.study.run_command import ROOT, grid_line
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from recipes.system.durable import write_text_atomically
from recipes.system.json_lines import JsonLines, read_rows

JOBS = "jobs.jsonl"
FURTHER = "the other options of sbatch come behind --sbatch"
BATCH_SCRIPT = "launch/scaling.sbatch"
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD", "STAGE_OUT")
MOST_TASKS = 1000
"""Tasks of an array: Slurm's MaxArraySize is 1001 by default."""


class ArrayTask(NamedTuple):
    """One task of a job array."""

    job: str
    number: int
    log: Path
    """What it has printed."""


class ArrayOptions(NamedTuple):
    """How job arrays are submitted."""

    limit: int | None
    """Most tasks of an array that run at the same time; None: no limit."""
    tries: int
    """Crashes without a new checkpoint after which a task is given up."""
    further: Sequence[str]
    """Further options of sbatch."""


class SlurmArrays:
    """The job arrays of a study."""

    def __init__(self, study: Study) -> None:
        """Read which arrays were submitted, and ask Slurm what is left of them. Raises: ConfigError if there is no Slurm."""
        self._study, self._path = study, study.out / JOBS
        self._tasks = defaultdict[str, list[ArrayTask]](list)
        rows = read_rows(self._path)[0]
        queue = _queue() if rows else []
        jobs = {task.token: task.job for task in queue} | {row["token"]: row["job"] for row in rows if "job" in row}
        for row in rows:
            job = jobs.get(row["token"])
            for number, key in enumerate(row.get("runs", ()) if job else (), 1):
                self._tasks[key].append(ArrayTask(str(job), number, study.out / "logs" / f"slurm-{job}_{number}.out"))
        self._queue = {(task.job, task.number): task.state for task in queue}

    def queue_state(self, run: Run) -> str:
        """Return Slurm's state of the run's last task, such as PENDING; "" if Slurm does not have it any more."""
        task = self.last_task(run)
        return self._queue.get((task.job, task.number), "") if task else ""

    def last_task(self, run: Run) -> ArrayTask | None:
        """Return the task that trained the run last; None if it was never submitted."""
        return next(iter(self._tasks[run.key][-1:]), None)

    def num_tasks(self, run: Run) -> int:
        """Return how often the run was submitted."""
        return len(self._tasks[run.key])

    def submit(self, runs: Sequence[Run], data: Mapping[str, Path], options: ArrayOptions) -> list[str]:
        """Submit `runs`, in one array for each shape of a job, and return a line about each array. `data`: run key -> prepared folder.
        Raises: ConfigError with what sbatch prints if it fails."""
        by_shape = defaultdict[tuple[int, int], list[Run]](list)
        for run in runs:
            by_shape[run.cell.cluster.nodes, run.cell.cluster.gpus].append(run)
        parts = [(shape, group[i : i + MOST_TASKS]) for shape, group in sorted(by_shape.items()) for i in range(0, len(group), MOST_TASKS)]
        return [self._submit(shape, part, data, options) for shape, part in parts]

    def _submit(self, shape: tuple[int, int], runs: Sequence[Run], data: Mapping[str, Path], options: ArrayOptions) -> str:
        (nodes, ranks_per_node), study, logs = shape, self._study, self._study.out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        token = f"{study.name}-{secrets.token_hex(6)}"
        grid = study.out / "grids" / f"{token}.txt"
        grid.parent.mkdir(exist_ok=True)
        write_text_atomically(grid, "".join(f"{grid_line(study, run, data[run.key])}\n" for run in runs))
        array = f"1-{len(runs)}" + (f"%{options.limit}" if options.limit else "")
        words = [
            *("sbatch", "--parsable", f"--array={array}", f"--nodes={nodes}", f"--job-name={study.name}", f"--comment={token}"),
            *(f"--output={logs.resolve()}/slurm-%A_%a.out", *options.further, BATCH_SCRIPT, str(grid.resolve())),
        ]
        own = {"WANDB_RUN_GROUP": study.name, "RANKS_PER_NODE": str(ranks_per_node), "MAX_TRIES": str(options.tries)}
        # before sbatch, so that an array is known by its comment even if this process is killed
        JsonLines(self._path).append({"time": time.time(), "token": token, "grid": str(grid), "runs": [run.key for run in runs]})
        job = _output(words, FURTHER, {**os.environ, **own}).strip().partition(";")[0]
        JsonLines(self._path).append({"time": time.time(), "token": token, "job": job})
        most = f", at most {options.limit} at a time" if options.limit else ""
        return f"job {job}: {len(runs)} runs on {nodes} x {ranks_per_node} ranks each{most}; {grid}"


def check_slurm() -> None:
    """Check, before anything is prepared, that jobs can be submitted here. Raises: ConfigError."""
    _output(["sinfo", "-h", "-o", "%P"], "--local N trains N runs at a time here")


class QueuedTask(NamedTuple):
    """A task that Slurm has in its queue."""

    job: str
    number: int
    state: str
    token: str
    """The comment of its array."""


def _queue() -> list[QueuedTask]:
    """Return all tasks of this user that have not ended; [] on a machine without Slurm, on which a copied study can be collected."""
    if not shutil.which("squeue"):
        return []
    lines = _output(["squeue", "-h", "-r", "--me", "-o", "%F %K %k %T %r"], "give the same command again, on a login node").splitlines()
    found = [words for line in lines if len(words := line.split(maxsplit=4)) == 5 and words[1].isdecimal()]
    return [QueuedTask(job, int(number), "HELD" if "held" in why.lower() else state, token) for job, number, token, state, why in found]


def _output(words: Sequence[str], remedy: str, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise ConfigError(f"there is no {words[0]} on this machine, so no Slurm; --local N runs N at a time here") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{words[0]} does not answer; look at sinfo, and give the same command again") from None
    if done.returncode:
        said: Any = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError(f"{words[0]}: {said[-1]}; {remedy}")
    return done.stdout
