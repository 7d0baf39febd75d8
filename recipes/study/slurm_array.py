"""Submits the runs of a study as Slurm job arrays, and asks Slurm which of them are queued or running. Torch-free.

A job array has one number of nodes, so there is one for each number of nodes. launch/scaling.sbatch runs one line of the grid file a task.
"""

import os
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
        jobs = read_rows(self._path)[0]
        for row in jobs:
            for index, key in enumerate(row["runs"], 1):
                self._tasks[key].append(ArrayTask(row["job"], index, study.out / "logs" / f"slurm-{row['job']}_{index}.out"))
        self._queue = _queue([row["job"] for row in jobs])

    def queue_state(self, run: Run) -> str:
        """Return Slurm's state of the run's last task, such as PENDING; "" if Slurm does not have it any more."""
        task = self.last_task(run)
        return self._queue.get(f"{task.job}_{task.number}", "") if task else ""

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
        grid = study.out / "grids" / f"{len(read_rows(self._path)[0]) + 1:04d}.txt"
        grid.parent.mkdir(exist_ok=True)
        write_text_atomically(grid, "".join(f"{grid_line(study, run, data[run.key])}\n" for run in runs))
        array = f"1-{len(runs)}" + (f"%{options.limit}" if options.limit else "")
        words = [
            *("sbatch", "--parsable", f"--array={array}", f"--nodes={nodes}", f"--job-name={study.name}"),
            *(f"--output={logs.resolve()}/slurm-%A_%a.out", *options.further, BATCH_SCRIPT, str(grid.resolve())),
        ]
        own = {"WANDB_RUN_GROUP": study.name, "RANKS_PER_NODE": str(ranks_per_node), "MAX_TRIES": str(options.tries)}
        job = _output(words, FURTHER, {**os.environ, **own}).strip().partition(";")[0]
        row = {"time": time.time(), "job": job, "nodes": nodes, "grid": str(grid), "runs": [run.key for run in runs]}
        JsonLines(self._path).append(row)
        most = f", at most {options.limit} at a time" if options.limit else ""
        return f"job {job}: {len(runs)} runs on {nodes} x {ranks_per_node} ranks each{most}; {grid}"


def check_slurm() -> None:
    """Check, before anything is prepared, that jobs can be submitted here. Raises: ConfigError."""
    _output(["sinfo", "-h", "-o", "%P"], "--local N trains N runs at a time here")


def _queue(jobs: Sequence[str]) -> dict[str, str]:
    """Return JOB_INDEX -> state of all tasks that Slurm has not removed from its list yet."""
    if not jobs or not shutil.which("squeue"):  # a study that was copied elsewhere can be collected there
        return {}
    mine = set(jobs)
    lines = _output(["squeue", "-h", "-r", "--me", "-o", "%F %K %T %r"], "give the same command again, on a login node").splitlines()
    found = [words for line in lines if len(words := line.split(maxsplit=3)) == 4]
    return {f"{job}_{index}": state if "held" not in reason.lower() else "HELD" for job, index, state, reason in found if job in mine}


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
