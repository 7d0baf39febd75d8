"""Decides when a checkpoint is due and when a failed save is tried again, and reports the outcome. The files are written in
recipes/checkpoint/save.py."""

import time
from collections.abc import Callable
from typing import Any

from recipes.checkpoint.layout import Counters, newest, step_of
from recipes.checkpoint.save import CheckpointSaver, SaveOutcome
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.run_dir.run_dir import RunDir
from recipes.settings import recipe_to_dict
from recipes.train.best import BestEvaluation

SmallStates = Callable[[], dict[str, Any]]

RETRIES_PER_INTERVAL = 10
"""A failed save is tried again after run.save_steps divided by this, in updates."""
LAST_TRIES = 3
LAST_PAUSE_SECONDS = 2.0


class Saving:
    """The saves of one run, at most one at a time: the next save waits for the running one. Every rank calls every method; all but
    running_step and written_step() are collectives."""

    def __init__(
        self,
        saver: CheckpointSaver,
        recipe: Recipe,
        run_info: dict[str, Any],
        saved_step: int,
        run_dir: RunDir | None,
        *,
        best: BestEvaluation | None = None,
    ) -> None:
        """`run_info` (versions, command line, hashes of the data) is written to every manifest beside the recipe. `saved_step`: step of
        the checkpoint that the run was resumed from, 0 without one. `run_dir`: receives events and warnings; None except on rank 0.
        `best`: gets the outcome of each save; None: there is no best evaluation."""
        self._saver, self._save_steps = saver, recipe.run.save_steps
        self.run_dir = run_dir
        """The run dir, for events and warnings; None except on rank 0."""
        self._run_info = {"recipe": recipe_to_dict(recipe), **run_info}
        self._saved_step = saved_step
        self._best = best or BestEvaluation()
        self._retry_step: int | None = None
        self._running_step = 0

    @property
    def running_step(self) -> int:
        """The step of the running save, the same on all ranks; 0 if there is none. collect() ends it."""
        return self._running_step if self._saver.is_busy else 0

    def written_step(self) -> int:
        """Return the step of the running save if this rank has written its files, else 0. If it is running_step on all ranks, collect()
        does not wait.

        Raises: any error of this rank's writing except ConfigError, which collect() reports. If it were not raised here, the other ranks
        would wait for this one.
        """
        return self._running_step if self._saver.is_written() else 0

    def save_if_due(self, counters: Counters, small_states: SmallStates, *, is_asked: bool = False) -> None:
        """Start a save if the step is a multiple of run.save_steps, if a failed save is to be tried again, or if it is asked for.
        `small_states` is called only if a save starts."""
        if is_asked or counters.step % self._save_steps == 0 or counters.step == self._retry_step:
            self._begin(counters, small_states)

    def _begin(self, counters: Counters, small_states: SmallStates) -> None:
        if self._saver.is_busy:
            self.collect(counters.step)
        self._retry_step, self._running_step = None, counters.step
        self._saver.begin(counters, {**self._run_info, **small_states(), "time": time.time()})

    def collect(self, step: int) -> SaveOutcome:
        """Wait for the running save, write its result to the log, and return it.

        `step`: the current step of training. If the save failed, it is tried again a number of updates later.
        """
        start = time.perf_counter()
        outcome = self._saver.finish()
        waited = time.perf_counter() - start
        self._best.saved(outcome.step, is_written=outcome.problem is None)
        if outcome.problem is None:
            self._saved_step = outcome.step
            timings = {"copy_seconds": outcome.copy_seconds, "wait_seconds": waited, "write_seconds": outcome.write_seconds}
            self._report("save", step=outcome.step, **timings, bytes=outcome.bytes)
        else:
            self._retry_step = step + max(1, self._save_steps // RETRIES_PER_INTERVAL)
            self._report("save_failed", step=outcome.step, reason=outcome.problem, retry_step=self._retry_step)
            self._warn(f"the checkpoint of step {outcome.step} was not written ({outcome.problem}); that of step {self._saved_step} stays")
        if outcome.leftover:
            self._report("leftover", step=outcome.step, reason=outcome.leftover)
            self._warn(f"an outdated checkpoint could not be removed ({outcome.leftover})")
        return outcome

    def finish(self, counters: Counters, small_states: SmallStates) -> None:
        """Save the last step, unless it is saved already, and wait until it is written. Raises: ConfigError if LAST_TRIES saves fail."""
        if self._saver.is_busy:
            self.collect(counters.step)
        problem = None
        for attempt in range(LAST_TRIES):
            if counters.step == self._saved_step:
                return
            if attempt:
                time.sleep(LAST_PAUSE_SECONDS)
            self._begin(counters, small_states)
            problem = self.collect(counters.step).problem
        if counters.step != self._saved_step:
            raise ConfigError(
                f"the checkpoint of step {counters.step} could not be written ({problem}); fix that and give the same command, "
                f"which continues from step {self._resumes_from()}"
            )

    def _resumes_from(self) -> int:
        """Return the step from which the next launch continues. Rank 0 reads it from the disk, because a save that failed at its very end
        may be complete there."""
        found = newest(self.run_dir.path) if self.run_dir else None
        return step_of(found) if found else self._saved_step

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for a running save and report it; except after KeyboardInterrupt, since the user does not want to wait."""
        if kind is None or issubclass(kind, Exception):
            self._saver.close()
            if self._saver.is_busy:
                self.collect(self._saved_step)

    def _warn(self, text: str) -> None:
        if self.run_dir:
            self.run_dir.warn(text)

    def _report(self, kind: str, step: int, **fields: Any) -> None:
        if self.run_dir:
            self.run_dir.event(kind, step=step, **fields)
