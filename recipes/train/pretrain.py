"""Pre-training: one optimizer update and the loop. The same for every modality, ds_config and number of ranks."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.batch import Batch
from recipes.checkpoint.layout import Counters
from recipes.config import Recipe
from recipes.errors import ConfigError, TrainingBroken
from recipes.train import objective
from recipes.train.ds_config import EngineConfig
from recipes.train.engine import set_learning_rate
from recipes.train.environment import is_first_rank
from recipes.train.evaluate import evaluate
from recipes.train.guard import Skip, UpdateGuard, Verdict, blamed_samples, check_collapse, check_skips
from recipes.train.metrics import Interval
from recipes.train.plot import plot_metrics
from recipes.train.preempt import StopRequest
from recipes.train.run_dir import RunDir
from recipes.train.schedule import ema_decay, learning_rate
from recipes.train.state import TrainState, setup
from recipes.train.statistics import UpdateStatistics
from recipes.train.world import join_world, leave_world

EXIT_DONE, EXIT_REQUEUE = 0, 75


def pretrain(recipe: Recipe, config: EngineConfig, run_dir: Path, facts: dict[str, Any]) -> int:
    """Train `recipe` in `run_dir` until run.max_steps, from its newest checkpoint if it has one. Returns the exit code.

    `facts` (versions, command line) go into config.json. Raises: ConfigError, TrainingBroken.
    """
    limits: dict[str, Any] = {"max_minutes": recipe.run.max_minutes, "file": run_dir / "stop"} if is_first_rank() else {}
    owned: list[RunDir] = []  # rank 0's, which must be given up however this ends
    with StopRequest(**limits) as stop:
        world = join_world()
        try:
            state = setup(recipe, config, run_dir, world, facts, owned, stop=stop)
            return EXIT_DONE if state is None else _train_and_tell(state)
        finally:
            for owner in owned:
                owner.release()
            if not stop.is_urgent:  # it waits for the other ranks
                leave_world()


def _train_and_tell(state: TrainState) -> int:
    """The loop, and a word in events.jsonl where it does not come to its end."""
    with state.saving:
        try:
            return train(state)
        except Exception as error:
            message = str(error) if isinstance(error, ConfigError | TrainingBroken) else f"{type(error).__name__}: {error}"
            _event(state, "error", message=message)
            raise


def train(state: TrainState) -> int:
    """THE loop: update, report, evaluate, save, in this order."""
    run, skipped = state.recipe.run, 0
    while state.step < run.max_steps and not state.stop.agreed:
        due = state.step + 1
        evaluates = due % run.eval_steps == 0 or due == run.max_steps
        logs = due % run.log_steps == 0 or evaluates or due == 1
        metrics = train_step(state, logs)
        if isinstance(metrics, Skip):  # the same step number is due again, on the next batch
            skipped += 1
            check_skips(state.recipe, due, skipped, metrics.reason)
            continue
        skipped = 0
        if evaluates:
            metrics.update(evaluate(state.recipe, state.engines, state.data.heldout, state.config.batch.micro_batch_size))
            state.data.bad_items.note(state.data.heldout.take_bad())
        if logs:
            report(state, metrics)
        state.saving.save_if_due(state.counters, state.small_states)
    state.saving.finish(state.counters, state.small_states)
    state.data.loader.close()
    return finish(state)


def train_step(state: TrainState, logs: bool) -> dict[str, Any] | Skip:
    """One optimizer update over all micro-batches. Returns its metrics (only the step unless `logs`, since the others cost
    collectives), or why it was not applied: then neither weights nor moments nor teacher have moved."""
    start = time.perf_counter()
    engines, recipe, counters = state.engines, state.recipe, state.counters
    batches = [loaded.batch for loaded in state.data.bad_items.load(state.data.loader, counters.update)]
    masked, tokens, stop = _sum_over_ranks(state, batches)
    if masked == 0:
        raise ConfigError(
            f"no position of update {counters.update} ({recipe.run.global_batch_size} samples) is masked; raise --set mask.prob"
        )
    rate = learning_rate(recipe.optim, counters.step)
    set_learning_rate(engines.student, rate)
    statistics, guard = UpdateStatistics(), UpdateGuard(engines, recipe.guard, state.world, state.spikes)
    engines.stream.update = counters.update
    for number, batch in enumerate(batches):
        if number:
            engines.student.step()  # counts the micro-batch before; the last one's is the guard's
        engines.stream.micro_batch = number
        result = objective.forward(engines, batch.to(engines.device), recipe.loss)
        if logs:
            statistics.add(result)
        guard.note(result.loss)
        objective.backward(engines, result, masked)
    verdict = guard.judge(masked)
    skip = guard.step(verdict)
    decay = ema_decay(recipe.teacher, counters.step + 1)
    if not skip:
        engines.shadow.update(decay)
    state.counters = Counters(
        counters.step + (skip is None), counters.update + 1, counters.samples + recipe.run.global_batch_size, counters.tokens + tokens
    )
    state.stop.agreed = stop > 0
    seconds = time.perf_counter() - start
    _count_time(state, seconds, tokens)
    _tell(state, verdict, skip, seconds)
    if skip:
        return skip
    if not logs:
        return {"step": state.step}
    return {
        "step": state.step,
        **statistics.reduce(engines.parallel.dp_group),
        "grad_norm": float(engines.student.get_global_grad_norm()),
        "lr": rate,
        "ema_decay": decay,
        "masked_fraction": masked / tokens,
    }


def report(state: TrainState, metrics: dict[str, Any]) -> None:
    """Write one logged step (rank 0), then stop a run that has collapsed (all ranks)."""
    counters, interval = state.counters, state.interval
    metrics |= {
        "samples": counters.samples,
        "tokens": counters.tokens,
        "data_wait_seconds": interval.data_wait_seconds / interval.steps,
        "skipped_steps": counters.update - counters.step,
        "world_size": state.world.size,
        "tp_size": state.engines.parallel.tp_size,
    }
    if state.writer:
        state.writer.write(metrics, interval)
    state.interval = Interval()
    check_collapse(state.recipe, metrics)


def finish(state: TrainState) -> int:
    """Last words and the exit code: 75 where the run was stopped before its end."""
    done = state.step >= state.recipe.run.max_steps
    if state.writer and state.run_dir:
        state.writer.close()
        reason = state.stop.reason or "a request on another rank"
        state.stop.obeyed()
        state.run_dir.event("stop", step=state.step, reason="done" if done else reason)
        if done:
            picture = plot_metrics(state.run_dir.path)
            curves = f"; curves in {picture.name}" if picture else ""
            state.writer.say(f"done: {state.step} steps, {state.counters.tokens:,} tokens in {state.run_dir.path}{curves}")
            state.writer.say(f"next: python launch/probe.py --from {state.run_dir.path}")
        else:
            state.writer.say(f"stopped by {reason} at step {state.step}, saved; the same command continues")
    return EXIT_DONE if done else EXIT_REQUEUE


def _sum_over_ranks(state: TrainState, batches: list[Batch]) -> tuple[int, int, int]:
    """Masked positions and tokens of the whole update, and how many ranks were asked to stop. TP ranks hold the same data.

    What any rank met meanwhile all agree on: undecodable items, a checkpoint that is written, a run dir that was taken over.
    Raises: ConfigError where items have become too many, or the run dir is lost.
    """
    own = [sum(b.num_masked for b in batches), sum(b.num_tokens for b in batches), int(state.stop.is_asked())]
    met = [state.data.bad_items.num_new, int(state.saving.is_written()), int(state.run_dir is not None and state.run_dir.is_lost)]
    counts = torch.tensor([*own, *met], dtype=torch.int64)
    dist.all_reduce(counts, group=state.world.control)  # on the host: the device goes on with the update before
    masked, tokens, stop, any_bad, written, is_lost = counts.tolist()
    if is_lost:
        state.world.once(lambda: _check_owner(state))
    if written == state.world.size:
        state.saving.collect(state.step)
    if any_bad:
        state.data.bad_items.agree(state.world.control, lambda item: _event(state, "bad_item", where=item.where, reason=item.reason))
    return masked // state.engines.parallel.tp_size, tokens // state.engines.parallel.tp_size, stop


def _check_owner(state: TrainState) -> None:
    assert state.run_dir is not None
    state.run_dir.check()


def _count_time(state: TrainState, seconds: float, tokens: int) -> None:
    interval = state.interval
    interval.steps += 1
    interval.seconds += seconds
    interval.tokens += tokens
    interval.data_wait_seconds += state.data.loader.wait_seconds


def _tell(state: TrainState, verdict: Verdict, skip: Skip | None, seconds: float) -> None:
    """Events of the update that has just ended, where there is anything to say."""
    update = state.counters.update - 1
    for spike in verdict.spikes:
        _event(state, "spike", update=update, **asdict(spike), action=state.recipe.guard.spike)
    if skip:
        samples = blamed_samples(skip, state.data.loader.positions(update), state.config.batch)
        _event(state, "skip", update=update, reason=skip.reason, seconds=seconds, ranks=skip.ranks, samples=samples)


def _event(state: TrainState, kind: str, **facts: Any) -> None:
    if state.run_dir:
        state.run_dir.event(kind, step=state.step, **facts)
