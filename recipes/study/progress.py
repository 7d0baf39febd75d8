"""The state of every run of a study, and the lines of the verbs submit and status. Torch-free."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recipes.study.attempts import Attempts
from recipes.study.failure import printed_error
from recipes.study.run_folder import Run
from recipes.study.run_state import RunState
from recipes.study.slurm_array import HELD, WAITING, SlurmArrays
from recipes.study.study_file import Study


class Progress(NamedTuple):
    """A run and its state."""

    run: Run
    state: RunState


def progress_of(study: Study, runs: Sequence[Run]) -> list[Progress]:
    """Return the state of each run, by its folder, the study's log of starts, and Slurm if the study was submitted to it. Raises:
    ConfigError."""
    attempts, arrays = Attempts(study.out), SlurmArrays(study)
    return [Progress(run, state_with_slurm(run, attempts.state_of(run), arrays)) for run in runs]


def state_with_slurm(run: Run, found: RunState, arrays: SlurmArrays) -> RunState:
    """Return the state `found` of a run, corrected by what Slurm has of its last task."""
    queued = arrays.queue_state(run)
    task = arrays.last_task(run)
    if task is None or found.state in ("done", "running"):
        return found
    if queued in WAITING:
        return RunState("queued", found.step)
    if queued == HELD:
        error = printed_error(task.log) or found.reason or "no error is printed"
        reason = f"held by Slurm after its last try ({error}); scontrol release {task.job}_{task.number}"
        return RunState("failed", found.step, reason=reason)
    if queued:  # Slurm lists only what has not ended
        return RunState("running", found.step)
    if found.state == "queued" or not found.reason:
        return RunState("failed", found.step, reason=printed_error(task.log) or f"job {task.job}_{task.number} is gone without a record")
    return found


def status_lines(progress: Sequence[Progress]) -> Iterator[str]:
    """Yield a line for each run, and one with the numbers of runs in each state."""
    width = max((len(one.run.name) for one in progress), default=0)
    for run, state in progress:
        steps = run.cell.recipe.run.max_steps
        shown = {
            "queued": "",
            "running": f"step {state.step}/{steps}{_left(state.seconds_left)}",
            "done": f"{steps} steps",
            "failed": state.reason,
            "stopped": f"step {state.step}/{steps}, {state.reason}",
        }
        yield f"{run.name:<{width}}  {state.state:<8} {shown[state.state]}".rstrip()
    yield summary_line(progress)


def summary_line(progress: Sequence[Progress]) -> str:
    """Return the numbers of runs in each state."""
    counts = Counter(one.state.state for one in progress)
    return f"{len(progress)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.most_common())


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, hours = seconds / 60, seconds / 3600
    return f", ETA {hours:.1f} h" if hours >= 2 else f", ETA {minutes:.0f} min" if minutes >= 2 else f", ETA {seconds:.0f} s"
