"""Decides what happens to a Slurm job after its ranks have ended: done, failed, requeued, or held. Pure functions of how the ranks ended
and of the progress of the run. recipes/job/batch.py carries the decision out."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recipes.errors import ConfigError, Stopped, TrainingBroken
from recipes.watch.endings import Ending, first_failure

MAX_STOPS = 10
"""The job is held after this many stops on request without a new checkpoint: its time limit is too short to reach one."""
FINAL_CODES = (ConfigError.exit_code, TrainingBroken.exit_code)
"""Exit codes of errors that the same command would raise again. The job is not requeued after them."""
STOP_CODES = (Stopped.exit_code, 128 + signal.SIGUSR2)
"""Exit codes of a node that was asked to stop. The second: the signal came before the handler was set."""

Verb = Literal["done", "fail", "requeue", "hold", "stay"]
Kind = Literal["done", "stopped", "crashed", "refused"]


@dataclass(frozen=True)
class Attempt:
    """How one start of the Slurm job ended. Written as a line of RUN_DIR/attempts.jsonl."""

    kind: Kind
    step: int
    """The step of the newest checkpoint when the attempt ended."""
    reason: str


@dataclass(frozen=True)
class Action:
    """What to do with the job, the exit code of its batch script, and a line for the user."""

    verb: Verb
    code: int
    line: str


def classify_attempt(endings: Sequence[Ending], code: int, step: int, *, was_asked: bool, stop_reason: str | None) -> Attempt:
    """Return how one start of the Slurm job ended: done, stopped on request, crashed, or refused (an error that the same command would
    raise again).

    `endings`: how each rank ended. `code`: the exit code of the nodes, used if no rank reported one, or if all reported 0. `step`: the
    step of the newest checkpoint. `was_asked`: the batch script got the signal USR2. `stop_reason`: why the run stopped, None if its last
    event is no stop.
    """
    failure = first_failure(endings)
    codes = {ending.code for ending in endings if ending.ended == "reported"}
    final = next((ending for ending in endings if ending.code in FINAL_CODES), None)
    if final and (failure is None or failure.ended == "reported"):
        return Attempt("refused", step, str(final))
    if failure:
        return Attempt("crashed", step, str(failure))
    if codes == {0} and code:
        return _after_training(code, step)
    if Stopped.exit_code in codes or (not codes and (code in STOP_CODES or was_asked)):
        return Attempt("stopped", step, f"stopped by {stop_reason}" if stop_reason else "stopped on request before the first step")
    if codes == {0} or (not codes and code == 0):  # no rank reported a code: there was nothing left to do
        return Attempt("done", step, "done")
    kind: Kind = "refused" if code in FINAL_CODES else "crashed"
    return Attempt(kind, step, f"no rank began to train, srun ended with exit code {code}; the reason is above")


def _after_training(code: int, step: int) -> Attempt:
    """Return how an attempt ended whose ranks have trained to the last step, and which then ended with another code than 0 (`code`): a
    command may have work after that, such as the scores of a task or the run of the next seed."""
    if code in STOP_CODES:
        return Attempt("stopped", step, "stopped on request after the last step")
    kind: Kind = "refused" if code in FINAL_CODES else "crashed"
    return Attempt(kind, step, f"after the last step the command ended with exit code {code}; the reason is above")


def decide(history: Sequence[Attempt], attempt: Attempt, started_at: int, max_tries: int, codes: Sequence[int]) -> Action:
    """Return what happens to the Slurm job after `attempt`: end it, requeue it, or hold it. It is held after `max_tries` crashes in a
    row, or MAX_STOPS stops on request in a row, without a new checkpoint.

    `history`: the earlier attempts, oldest first. `started_at`: the step at which the attempt began. `codes`: the exit codes of the ranks,
    then that of the nodes; after a refused attempt the first of FINAL_CODES among them becomes the exit code of the batch script.
    """
    gained = f"checkpoint of step {attempt.step} (+{attempt.step - started_at} in this attempt)"
    if attempt.kind == "done":
        return Action("done", 0, f"done: {gained}")
    if attempt.kind == "refused":
        return Action(
            "fail", next((code for code in codes if code in FINAL_CODES), 2), f"{attempt.reason}; {gained}; not requeued: fix it first"
        )
    tries = 1 + _without_progress(history, attempt)
    limit = max_tries if attempt.kind == "crashed" else MAX_STOPS
    if attempt.step > started_at or tries < limit:
        again = "" if attempt.step > started_at else f", try {tries} of {limit} without a new checkpoint"
        return Action("requeue", Stopped.exit_code, f"{attempt.reason}; {gained}; requeued{again}")
    line = f"{attempt.reason}; {gained}; held after {tries} tries without a new checkpoint"
    return Action("hold", 1, line)


def _without_progress(history: Sequence[Attempt], attempt: Attempt) -> int:
    count = 0
    for before in reversed(history):
        if before.step != attempt.step or before.kind != attempt.kind:
            break
        count += 1
    return count


def attempt_from_json(row: dict[str, Any]) -> Attempt:
    """Return the attempt of a row of attempts.jsonl. Keys other than kind, step and reason are ignored."""
    return Attempt(row["kind"], row["step"], row["reason"])
