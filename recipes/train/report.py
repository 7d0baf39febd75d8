"""What is told of a run while it trains: events of an update, a logged step, how it ended. When: recipes/train/loop.py."""

from dataclasses import asdict
from typing import Any

from recipes.system.terminal import take_losses
from recipes.train.guard import Skip, UpdateHealth, blamed_samples, check_finite
from recipes.train.metrics import Interval
from recipes.train.plot import plot_metrics
from recipes.train.state import TrainState

EXIT_DONE, EXIT_REQUEUE = 0, 75


def tell(state: TrainState, kind: str, **facts: Any) -> None:
    """Append an event to events.jsonl (rank 0)."""
    if state.run_dir:
        state.run_dir.event(kind, step=state.step, **facts)


def tell_update(state: TrainState, health: UpdateHealth, skip: Skip | None, seconds: float) -> None:
    """Events of the update that has just ended, where there is anything to say."""
    update = state.counters.update - 1
    for spike in health.spikes:
        tell(state, "spike", update=update, **asdict(spike), action=state.recipe.guard.spike)
    if skip:
        samples = blamed_samples(skip, state.data.loader.positions(update), state.config.batch)
        tell(state, "skip", update=update, reason=skip.reason, seconds=seconds, ranks=skip.ranks, samples=samples)


def report(state: TrainState, metrics: dict[str, Any]) -> None:
    """Write one logged step (rank 0), then stop a run that learns nothing any more (all ranks)."""
    counters, interval = state.counters, state.interval
    metrics |= {
        "samples": counters.samples,
        "tokens": counters.tokens,
        "data_wait_seconds": interval.data_wait_seconds / interval.steps,
        "skipped_steps": counters.update - counters.step,
        "world_size": state.world.size,
        "tp_size": state.objective.parallel.tp_size,
    }
    if state.writer:
        state.writer.write(metrics, interval)
    for loss in take_losses():
        tell(state, "terminal_lost", stream=loss.stream, reason=loss.reason)
    state.interval = Interval()
    check_finite(metrics)
    state.objective.check(metrics)


def finish(state: TrainState) -> int:
    """Last lines and the exit code: 75 where the run was stopped before its end."""
    done = state.step >= state.recipe.run.max_steps
    if state.writer and state.run_dir:
        state.writer.close()
        reason = state.stop.reason or "a request on another rank"
        state.stop.obeyed()
        state.run_dir.event("stop", step=state.step, reason="done" if done else reason)
        if done:
            picture = plot_metrics(state.run_dir.path, state.objective.display.panels)
            curves = f"; curves in {picture.name}" if picture else ""
            state.writer.say(f"done: {state.step} steps, {state.counters.tokens:,} tokens in {state.run_dir.path}{curves}")
            state.writer.say(f"next: python launch/probe.py --from {state.run_dir.path}")
        else:
            state.writer.say(f"stopped by {reason} at step {state.step}, saved; the same command continues")
    return EXIT_DONE if done else EXIT_REQUEUE
