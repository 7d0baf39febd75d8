"""Reports of a running training: events of an update, a logged step, the end. recipes/train/loop.py decides when."""

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from recipes.system.terminal import take_lost_outputs
from recipes.train.guard import Skip, UpdateHealth, blamed_samples, check_finite
from recipes.train.memory import format_bytes, peak_memory_bytes
from recipes.train.metrics import Interval
from recipes.train.plot import plot_metrics
from recipes.train.probe import METRIC
from recipes.train.state import TrainState

EXIT_DONE, EXIT_REQUEUE = 0, 75


def report_event(state: TrainState, kind: str, **fields: Any) -> None:
    """Append an event of this kind, with the step and `fields`, to events.jsonl. Does nothing on ranks other than 0."""
    if state.run_dir:
        state.run_dir.event(kind, step=state.step, **fields)


def report_update(state: TrainState, health: UpdateHealth, skip: Skip | None, seconds: float) -> None:
    """Report the update that has just ended: move the bar, and write events for spikes and a skip."""
    if state.writer:
        state.writer.terminal.step(state.step)
    update = state.counters.update - 1
    for spike in health.spikes:
        report_event(state, "spike", update=update, **asdict(spike), action=state.recipe.guard.spike)
    if skip:
        samples = blamed_samples(skip, state.data.loader.positions(update), state.config.batch)
        report_event(state, "skip", update=update, reason=skip.reason, seconds=seconds, ranks=skip.ranks, samples=samples)


def report(state: TrainState, metrics: dict[str, Any]) -> None:
    """Write one logged step (rank 0), compare the ranks' copies of weights, then check that the loss is usable (all ranks).

    Raises: TrainingBroken if the loss is not finite or the objective's own check fails.
    """
    counters, interval = state.counters, state.interval
    metrics |= {
        "samples": counters.samples,
        "tokens": counters.tokens,
        "data_wait_seconds": interval.data_wait_seconds / interval.steps,
        "skipped_steps": counters.update - counters.step,
        "world_size": state.world.size,
        "tp_size": state.objective.parallel.tp_size,
        "peak_memory_bytes": state.world.largest(peak_memory_bytes(state.device)),
    }
    if state.writer:
        state.writer.write(metrics, interval)
    for loss in take_lost_outputs():
        report_event(state, "terminal_lost", stream=loss.stream, reason=loss.reason)
    report_drifts(state)
    state.interval = Interval()
    check_finite(metrics)
    state.objective.check(metrics)


def report_drifts(state: TrainState) -> None:
    """Report parameters that differ between tensor-parallel ranks, which hold them whole: an event, and a warning. A collective."""
    names = state.drift_check.new_drifts()
    if not names:
        return
    report_event(state, "drift", parameters=names)
    if state.run_dir:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        state.run_dir.warn(
            f"the copies of {names[0]}{more} differ between tensor-parallel ranks at step {state.step}; go back to a checkpoint before it"
        )


def report_first_probe(state: TrainState, metrics: dict[str, float]) -> None:
    """Report the probe of the weights with which the run begins, by which the later ones are judged: an event, and a line."""
    report_event(state, METRIC, **metrics)
    if state.writer:
        state.writer.terminal.say(f"before the first update: {METRIC} {metrics[METRIC]:.3f}")


def report_last_save(state: TrainState) -> None:
    """Print that the last save has started, for the user who asked the run to stop and waits."""
    if state.writer and state.stop.agreed:
        state.writer.terminal.say(f"stopping: saving step {state.step}")


def finish(state: TrainState) -> int:
    """Print the last lines, write the `stop` event, and return the exit code: 0 if the run has reached its last step, 75 if it was stopped
    before."""
    done = state.is_done
    memory = state.world.largest(peak_memory_bytes(state.device))
    if state.writer and state.run_dir:
        state.writer.close()
        reason = state.stop.reason or "a request on another rank"
        state.stop.remove_file()
        state.run_dir.event("stop", step=state.step, reason="done" if done else reason)
        stopped = f"stopped by {reason} at step {state.step}, saved; the same command continues"
        if bad_items := state.data.bad_items.summary():
            state.writer.terminal.say(bad_items)
        for line in _done_lines(state, memory) if done else (stopped,):
            state.writer.terminal.say(line)
    return EXIT_DONE if done else EXIT_REQUEUE


def _done_lines(state: TrainState, memory: int) -> Iterator[str]:
    assert state.run_dir is not None
    path, tokens = state.run_dir.path, state.counters.tokens
    if state.step < state.recipe.run.max_steps:
        yield f"ended early: {state.recipe.eval.metric} was not better in {state.best.num_since} evaluations"
    if state.best.value is not None:
        yield f"best: {state.recipe.eval.metric} {state.best.value:.4f} at step {state.best.step}"
    yield f"done: {state.step} steps, {tokens:,} tokens in {path}; peak memory {format_bytes(memory)} a rank"
    display = state.objective.display
    if picture := plot_metrics(path, display.panels):
        yield f"curves: {picture}"
    if display.next_command:
        yield f"next: {display.next_command.format(run_dir=shlex.quote(str(path)))}"
