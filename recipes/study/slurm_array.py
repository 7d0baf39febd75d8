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
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.study.attempts import settings_of
from recipes.study.run_command import ROOT, grid_line
from recipes.study.run_folder import Run
from recipes.study.study_file import Study
from recipes.study.wording import in_number
from recipes.system.durable import write_text_atomically
from recipes.system.json_lines import JsonLines, read_rows

JOBS = "jobs.jsonl"
FURTHER = "the other options of sbatch come behind --sbatch"
BATCH_SCRIPT = "launch/scaling.sbatch"
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD", "STAGE_OUT")
HELD = "HELD"
"""State of a task that Slurm has put back into the queue and holds."""
MOST_TASKS = 1000
"""Tasks of an array: Slurm's MaxArraySize is 1001 by default."""


class ArrayTask(NamedTuple):
    """One task of a job array."""

    job: str
    number: int
    log: Path
    """What it has printed."""
    settings: str
    """settings_of() its run when it was submitted."""


class ArrayOptions(NamedTuple):
    """How job arrays are submitted."""

    limit: int | None
    """Most tasks that run at the same time; None: no limit."""
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
                log = study.out / "logs" / f"slurm-{job}_{number}.out"
                self._tasks[key].append(ArrayTask(str(job), number, log, row["settings"][number - 1]))
        self._queue = {(task.job, task.number): task.state for task in queue}

    def queue_state(self, run: Run) -> str:
        """Return Slurm's state of the run's last task, such as PENDING; "" if Slurm does not have it any more."""
        task = self.last_task(run)
        return self._queue.get((task.job, task.number), "") if task else ""

    def last_task(self, run: Run) -> ArrayTask | None:
        """Return the task that trained the run last; None if it was never submitted."""
        return next(iter(self._tasks[run.key][-1:]), None)

    def num_starts(self, run: Run) -> int:
        """Return how many tasks with the run's present settings have begun. A task that was cancelled in the queue is none."""
        settings = settings_of(run)
        return sum(task.settings == settings and task.log.exists() for task in self._tasks[run.key])

    def submit(self, runs: Sequence[Run], data: Mapping[str, Path], options: ArrayOptions) -> list[str]:
        """Submit `runs`, in one array for each shape of a job, and return a line about each array. With a limit, an array waits until the
        one before it has ended. `data`: run key -> prepared folder. Raises: ConfigError with what sbatch prints if it fails."""
        by_shape = defaultdict[tuple[int, int], list[Run]](list)
        for run in runs:
            by_shape[run.cell.cluster.nodes, run.cell.cluster.gpus].append(run)
        parts = [(shape, group[i : i + MOST_TASKS]) for shape, group in sorted(by_shape.items()) for i in range(0, len(group), MOST_TASKS)]
        lines, job = list[str](), ""
        for (nodes, ranks_per_node), part in parts:
            token, grid = self._prepare(part, data)
            previous = job if options.limit else ""
            after = [f"--dependency=afterany:{previous}"] if previous else []
            array = f"1-{len(part)}" + (f"%{options.limit}" if options.limit else "")
            words = [
                *("sbatch", "--parsable", f"--array={array}", f"--nodes={nodes}", f"--job-name={self._study.name}", f"--comment={token}"),
                *(f"--output={self._logs.resolve()}/slurm-%A_%a.out", *after, *options.further, BATCH_SCRIPT, str(grid.resolve())),
            ]
            own = {"WANDB_RUN_GROUP": self._study.name, "RANKS_PER_NODE": str(ranks_per_node), "MAX_TRIES": str(options.tries)}
            job = _output(words, FURTHER, {**os.environ, **own}).strip().partition(";")[0]
            self._log.append({"time": time.time(), "token": token, "job": job})
            if self._log.is_failing:
                raise ConfigError(f"job {job} is submitted, but {self._path} cannot be written; free the disk, and ask for status soon")
            most = f", at most {options.limit} at a time" if options.limit else ""
            behind = f", after job {previous}" if previous else ""
            lines.append(f"job {job}: {in_number(len(part), 'run')} on {nodes} x {ranks_per_node} ranks each{most}{behind}; {grid}")
        return lines

    def _prepare(self, runs: Sequence[Run], data: Mapping[str, Path]) -> tuple[str, Path]:
        """Write the grid file of an array, and which runs it has. Return the array's comment and the file. It is written before sbatch, so
        that an array is known by its comment even if this process is killed."""
        token = f"{self._study.name}-{secrets.token_hex(6)}"
        grid = self._study.out / "grids" / f"{token}.txt"
        try:
            for folder in (self._logs, grid.parent):
                folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(grid, "".join(f"{grid_line(self._study, run, data[run.key])}\n" for run in runs))
        except OSError as error:
            raise ConfigError(f"{grid} cannot be written ({error.strerror}); nothing is submitted; give the command again") from None
        keys, settings = [run.key for run in runs], [settings_of(run) for run in runs]
        self._log.append({"time": time.time(), "token": token, "grid": str(grid), "runs": keys, "settings": settings})
        if self._log.is_failing:
            raise ConfigError(f"{self._path} cannot be written; nothing is submitted; free the disk and give the command again")
        return token, grid

    @property
    def _logs(self) -> Path:
        return self._study.out / "logs"

    @cached_property
    def _log(self) -> JsonLines:
        return JsonLines(self._path, say=lambda line: None)  # a write that fails is an error here


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
    return [QueuedTask(job, int(number), HELD if _is_requeued(why) else state, token) for job, number, token, state, why in found]


def _is_requeued(why: str) -> bool:
    """True if Slurm holds a task after it has run. A task that a user or an administrator holds waits as others do."""
    return "requeued" in why.lower() and "held" in why.lower()


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
