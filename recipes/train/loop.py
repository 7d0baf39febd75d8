"""Pre-training: one optimizer update and the loop. The same for every modality, ds_config and number of ranks."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.batch import Batch
from recipes.checkpoint.layout import Counters
from recipes.cluster.environment import is_first_rank
from recipes.cluster.world import join_world, leave_world
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.engine.build import set_learning_rate
from recipes.errors import ConfigError, TrainingBroken
from recipes.objectives import data2vec as objective
from recipes.objectives.evaluate import evaluate
from recipes.objectives.statistics import UpdateStatistics
from recipes.run_dir.run_dir import RunDir
from recipes.train.guard import Skip, UpdateGuard, check_skips
from recipes.train.preempt import StopRequest
from recipes.train.report import EXIT_DONE, finish, report, tell, tell_update
from recipes.train.schedule import ema_decay, learning_rate
from recipes.train.state import TrainState, setup
from recipes.watch import endings
from recipes.watch.watch import Watch


def pretrain(recipe: Recipe, config: EngineConfig, run_dir: Path, facts: dict[str, Any]) -> int:
    """Train `recipe` in `run_dir` until run.max_steps, from its newest checkpoint if it has one. Returns the exit code.

    `facts` (versions, command line) go into config.json. Raises: ConfigError, TrainingBroken.
    """
    limits: dict[str, Any] = {"max_minutes": recipe.run.max_minutes, "file": run_dir / "stop"} if is_first_rank() else {}
    owned: list[RunDir] = []  # rank 0's, which must be given up however this ends
    with StopRequest(**limits) as stop:
        world = join_world()
        watch = Watch(run_dir / endings.FOLDER, world.rank, world.hosts, recipe.run.hang_seconds)
        try:
            state = setup(recipe, config, run_dir, world, facts, owned, stop=stop, watch=watch)
            return watch.end(EXIT_DONE if state is None else _train_and_tell(state))
        except BaseException as error:
            watch.end_with(error)
            raise
        finally:
            for owner in owned:
                owner.release()
            if not stop.is_urgent:  # both wait for others
                leave_world()
                watch.close()


def _train_and_tell(state: TrainState) -> int:
    """The loop, and a word in events.jsonl where it does not come to its end."""
    with state.saving:
        try:
            return train(state)
        except Exception as error:
            state.watch.end_with(error)  # before a running save is waited for: who ended first is the cause
            message = str(error) if isinstance(error, ConfigError | TrainingBroken) else f"{type(error).__name__}: {error}"
            tell(state, "error", message=message)
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
            beat = partial(state.beat, "evaluate")
            metrics.update(evaluate(state.recipe, state.engines, state.data.heldout, state.config.batch.micro_batch_size, beat))
            state.data.bad_items.note(state.data.heldout.take_bad())
        state.beat("report")
        if logs:
            report(state, metrics)
        with state.watch.paused("save"):  # it may wait for the one before, and a disk takes as long as it takes
            state.saving.save_if_due(state.counters, state.small_states)
    with state.watch.paused("last save"):
        state.saving.finish(state.counters, state.small_states)
    state.beat("leave")
    state.data.loader.close()
    return finish(state)


def train_step(state: TrainState, logs: bool) -> dict[str, Any] | Skip:
    """One optimizer update over all micro-batches. Returns its metrics (only the step unless `logs`, since the others cost
    collectives), or why it was not applied: then neither weights nor moments nor teacher have moved."""
    start = time.perf_counter()
    engines, recipe, counters = state.engines, state.recipe, state.counters
    state.beat("data")
    batches = [loaded.batch for loaded in state.data.bad_items.load(state.data.loader, counters.update)]
    masked, tokens, stop = _sum_over_ranks(state, batches)
    rate = learning_rate(recipe.optim, counters.step)
    set_learning_rate(engines.student, rate)
    statistics, guard = UpdateStatistics(), UpdateGuard(engines, recipe.guard, state.world, state.spikes)
    engines.stream.update = counters.update
    for number, batch in enumerate(batches):
        if number:
            engines.student.step()  # counts the micro-batch before; the last one's is the guard's
        engines.stream.micro_batch = number
        state.beat("forward", number)
        result = objective.forward(engines, batch.to(engines.device), recipe.loss)
        if logs:
            statistics.add(result)
        guard.note(result.loss)
        state.beat("backward", number)
        objective.backward(engines, result, masked)
    state.beat("judge")
    verdict = guard.judge(masked)
    state.beat("step")
    skip = guard.step(verdict)
    decay = ema_decay(recipe.teacher, counters.step + 1)
    state.beat("ema")
    if not skip:
        engines.shadow.update(decay)
    state.counters = Counters(
        counters.step + (skip is None), counters.update + 1, counters.samples + recipe.run.global_batch_size, counters.tokens + tokens
    )
    state.stop.agreed = stop > 0
    seconds = time.perf_counter() - start
    _count_time(state, seconds, tokens)
    tell_update(state, verdict, skip, seconds)
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


def _sum_over_ranks(state: TrainState, batches: list[Batch]) -> tuple[int, int, int]:
    """Masked positions and tokens of the whole update, and how many ranks were asked to stop. TP ranks hold the same data.

    What any rank met meanwhile all agree on: undecodable items, a checkpoint that is written, a run dir that was taken over.
    Raises: ConfigError where items have become too many, nothing is masked, or the run dir is lost.
    """
    state.beat("agree")
    own = [sum(b.num_masked for b in batches), sum(b.num_tokens for b in batches), int(state.stop.is_asked())]
    met = [state.data.bad_items.num_new, int(state.saving.is_written()), int(state.run_dir is not None and state.run_dir.is_lost)]
    counts = torch.tensor([*own, *met], dtype=torch.int64)
    dist.all_reduce(counts, group=state.world.control)  # on the host: the device goes on with the update before
    masked, tokens, stop, any_bad, written, is_lost = counts.tolist()
    if is_lost:
        state.world.on_rank_zero(lambda: _check_owner(state))
    if written == state.world.size:
        state.saving.collect(state.step)
    if any_bad:
        state.data.bad_items.agree(state.world.control, lambda item: tell(state, "bad_item", where=item.where, reason=item.reason))
    if masked == 0:
        update, samples = state.counters.update, state.recipe.run.global_batch_size
        raise ConfigError(f"no position of update {update} ({samples} samples) is masked; raise --set mask.prob")
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
