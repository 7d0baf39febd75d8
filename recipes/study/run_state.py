"""What has become of a run, from the files in its folder alone. Torch-free."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.ledger.launches import BEGINS, ENDS
from recipes.run_dir.lock import STALE_SECONDS, Owner
from recipes.study.log_sample import finite, last_row
from recipes.system.json_lines import read_rows

LOCK = ".lock"
State = Literal["queued", "running", "done", "failed", "stopped"]
"""queued: not begun. running: a launch owns the run dir. done: finished. failed: ended by an error, or killed. stopped: on request."""


@dataclass(frozen=True)
class RunState:
    """What a run's folder says about it."""

    state: State
    step: int = 0
    """The last logged update."""
    seconds_left: float | None = None
    """Of a running run, by its last logged update."""
    reason: str = ""
    """Why it failed or stopped, in one line."""


def state_of(path: Path, max_steps: int) -> RunState:
    """Return the state of the run in `path`, which has `max_steps` updates."""
    row = last_row(path / "metrics.jsonl") or {}
    step, seconds = (finite(row.get(key)) for key in ("step", "step_seconds"))
    step = int(step or 0)
    if is_owned(path):
        return RunState("running", step, (max_steps - step) * seconds if seconds else None)
    events, _ = read_rows(path / "events.jsonl")
    last = next((event for event in reversed(events) if event.get("event") in (*BEGINS, *ENDS)), None)
    return _ended(last, step) if last else RunState("queued", step)


def is_owned(path: Path) -> bool:
    """True if a launch that is alive owns the run dir. One on another machine counts as alive while it touches its lock."""
    lock = path / LOCK
    try:
        owner, touched = Owner.of(lock.read_text(errors="replace")), lock.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return False
    if owner is not None and owner.is_here():
        return owner.is_running()
    return time.time() - touched < STALE_SECONDS


def _ended(last: dict[str, Any], step: int) -> RunState:
    kind = last["event"]
    if kind == "stop":
        return (
            RunState("done", step) if last.get("reason") == "done" else RunState("stopped", step, reason=f"stopped by {last.get('reason')}")
        )
    if kind == "error":
        return RunState("failed", step, reason=_one_line(last.get("message")))
    if kind == "hang":
        return RunState("failed", step, reason="a rank hung; its events.jsonl has the rank")
    return RunState("failed", step, reason=f"killed at step {step}, without a record of its end")


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())
