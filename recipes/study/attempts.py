"""The study's own log of the starts of its runs: when each one began and how it ended. It decides whether a failed run is tried again.
Torch-free."""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import newest, step_of
from recipes.settings import recipe_to_dict
from recipes.study.run_folder import Run
from recipes.study.run_state import RunState, state_of
from recipes.system.json_lines import JsonLines, read_rows
from recipes.system.liveness import read_stat

ATTEMPTS = "attempts.jsonl"
BEGIN, END = "begin", "end"


class Attempts:
    """The starts of all runs of a study. One process at a time may add to them."""

    def __init__(self, out: Path) -> None:
        """Read the log in the study's folder. Nothing is written before the first begin() or end()."""
        self._path = out / ATTEMPTS
        self._rows = defaultdict[str, list[dict[str, Any]]](list)
        for row in read_rows(self._path)[0]:
            self._rows[str(row.get("run"))].append(row)

    def begin(self, run: Run, pid: int, devices: Sequence[str] = ()) -> None:
        """Record that a process trains the run. `devices`: the GPUs that it may use."""
        stat = read_stat(pid)
        self._add(run, event=BEGIN, pid=pid, start=stat.start if stat else "", step=saved_step(run), devices=list(devices))

    def end(self, run: Run, code: int | None, reason: str, *, failed: bool) -> None:
        """Record how a start of the run ended. `code`: exit code; None: not known. `reason`: one line, "" without an error."""
        self._add(run, event=END, code=code, reason=reason, failed=failed, step=saved_step(run))

    def has_progressed(self, run: Run) -> bool:
        """True if the run has a new checkpoint since its last start."""
        begun: dict[str, Any] = next((row for row in reversed(self._rows[run.key]) if row.get("event") == BEGIN), {})
        return saved_step(run) > (begun.get("step") or 0)

    def num_failures(self, run: Run) -> int:
        """Return the number of starts with the present settings that failed since the run's last new checkpoint."""
        ends = [row for row in self._rows[run.key] if row.get("event") == END]
        count = 0
        for row in reversed(ends):
            if not row.get("failed") or row.get("step") != saved_step(run) or row.get("settings") != settings_of(run):
                break
            count += 1
        return count

    def process_of(self, run: Run) -> int | None:
        """Return the process that trains the run, if it was started on this machine and is alive; else None."""
        last = self._rows[run.key][-1:]
        pid = last[0].get("pid") if last and last[0].get("event") == BEGIN else None
        stat = read_stat(pid) if isinstance(pid, int) else None
        return pid if stat and stat.start == last[0].get("start") and stat.state not in "ZX" else None

    def devices_of(self, run: Run) -> list[str]:
        """Return the GPUs of the process that trains the run; [] if there is none."""
        return list(self._rows[run.key][-1].get("devices") or ()) if self.process_of(run) else []

    def state_of(self, run: Run) -> RunState:
        """Return the state of the run by its folder, with what a start has left there not yet or not at all."""
        found, last = state_of(run.path, run.cell.recipe.run.max_steps), (self._rows[run.key] or [{}])[-1]
        if found.state in ("done", "running"):
            return found
        if self.process_of(run):
            return RunState("running", found.step)
        if last.get("event") == END and last.get("failed") and last.get("settings") == settings_of(run):
            return RunState("failed", found.step, reason=str(last.get("reason") or found.reason))
        return found

    def _add(self, run: Run, **facts: Any) -> None:
        row = {"time": time.time(), "run": run.key, "settings": settings_of(run), **facts}
        self._rows[run.key].append(row)
        self._log.append(row)

    @cached_property
    def _log(self) -> JsonLines:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return JsonLines(self._path)


def settings_of(run: Run) -> str:
    """Return a short hash of all settings of the run. A failure counts no more when they have changed."""
    cell = run.cell
    text = json.dumps([recipe_to_dict(cell.recipe), cell.ds_content, cell.ranks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def saved_step(run: Run) -> int:
    """Return the step of the run's newest checkpoint, 0 if there is none."""
    with suppress(OSError):
        folder = newest(run.path)
        return step_of(folder) if folder else 0
    return 0
