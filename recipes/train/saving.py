"""When a checkpoint is due, what becomes of a failed one, and what the user is told. How it is written: recipes/checkpoint/save.py."""

import time
from collections.abc import Callable
from typing import Any

from recipes.checkpoint.layout import Counters, newest, step_of
from recipes.checkpoint.save import CheckpointSaver, SaveOutcome
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.run_dir.run_dir import RunDir
from recipes.settings import recipe_to_dict

SmallStates = Callable[[], dict[str, Any]]

RETRIES_PER_INTERVAL = 10
"""A failed save is tried again after this part of run.save_steps."""
LAST_TRIES = 3
LAST_PAUSE_SECONDS = 2.0


class Saving:
    """The saves of one run: at most one at a time, the others wait for it. Every method is a collective at one step."""

    def __init__(self, saver: CheckpointSaver, recipe: Recipe, facts: dict[str, Any], saved_step: int, run_dir: RunDir | None) -> None:
        """`facts` go into every manifest beside the recipe; `saved_step`: the step of the checkpoint that the run comes from, 0
        without one; `run_dir`: where events go, on rank 0."""
        self._saver, self._save_steps = saver, recipe.run.save_steps
        self.run_dir = run_dir
        """On rank 0."""
        self._facts = {"recipe": recipe_to_dict(recipe), **facts}
        self._saved_step = saved_step
        self._retry_step: int | None = None

    def is_written(self) -> bool:
        """Whether a save is running whose files this rank has written: when all say so, collect() will not wait. Raises: what has ended
        the writing on this rank alone, for which the other ranks would wait."""
        return self._saver.is_written()

    def save_if_due(self, counters: Counters, small_states: SmallStates) -> None:
        """Begin a save at every run.save_steps, or to make good for a failed one; `small_states` is asked only then."""
        if counters.step % self._save_steps == 0 or counters.step == self._retry_step:
            self._begin(counters, small_states)

    def _begin(self, counters: Counters, small_states: SmallStates) -> None:
        if self._saver.is_busy:
            self.collect(counters.step)
        self._retry_step = None
        self._saver.begin(counters, {**self._facts, **small_states(), "time": time.time()})

    def collect(self, step: int) -> SaveOutcome:
        """Take the outcome of the running save at `step` of the training, and tell it. Waits until it is there."""
        start = time.perf_counter()
        outcome = self._saver.finish()
        waited = time.perf_counter() - start
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
        """Bring the last step onto the disk and wait for it. Raises: ConfigError where the disk refuses several times."""
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
                f"the checkpoint of step {counters.step} could not be written ({problem}); mend that and give the same command, "
                f"which continues from step {self._resumes_from()}"
            )

    def _resumes_from(self) -> int:
        """A save that failed at its very end may still be found by the next launch. Rank 0, which tells the user, looks."""
        found = newest(self.run_dir.path) if self.run_dir else None
        return step_of(found) if found else self._saved_step

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Let a running save end and be told, but where the user cannot wait (KeyboardInterrupt)."""
        if kind is None or issubclass(kind, Exception):
            self._saver.close()
            if self._saver.is_busy:
                self.collect(self._saved_step)

    def _warn(self, text: str) -> None:
        if self.run_dir:
            self.run_dir.warn(text)

    def _report(self, kind: str, step: int, **facts: Any) -> None:
        if self.run_dir:
            self.run_dir.event(kind, step=step, **facts)
