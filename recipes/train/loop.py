"""The training loop and one optimizer update. The same for every objective, modality, ds_config and number of ranks."""

import time
from contextlib import ExitStack
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
from recipes.engine import shards
from recipes.engine.update import backward, set_learning_rate, step
from recipes.errors import ConfigError, OutOfMemory, TrainingBroken, UnusableData
from recipes.system.terminal import limit_waiting
from recipes.train.guard import Skip, UpdateGuard, check_skips
from recipes.train.memory import naming_what_to_change, where_it_continues
from recipes.train.preempt import StopRequest
from recipes.train.report import EXIT_DONE, finish, report, tell, tell_last_save, tell_update
from recipes.train.schedule import learning_rate
from recipes.train.startup import StartUp, heldout_batches
from recipes.train.state import TrainState
from recipes.watch import endings
from recipes.watch.watch import Watch

TERMINAL_SECONDS = 10.0
"""How long a terminal that takes nothing may hold training up, once: less than any hang, longer than a slow connection."""


def run(recipe: Recipe, config: EngineConfig, run_dir: Path, facts: dict[str, Any]) -> int:
    """Train `recipe` in `run_dir` until run.max_steps, from its newest checkpoint if it has one. Returns the exit code.

    `facts` (versions, command line) go into config.json. Raises: ConfigError, TrainingBroken.
    """
    limit_waiting(TERMINAL_SECONDS)
    limits: dict[str, Any] = {"max_minutes": recipe.run.max_minutes, "file": run_dir / "stop"} if is_first_rank() else {}
    with StopRequest(**limits) as stop, ExitStack() as stack:
        world = join_world()
        watch = Watch(run_dir / endings.FOLDER, world.rank, world.hosts, recipe.run.hang_seconds)
        # both wait for others, which a second SIGINT must not; the run dir is given up before
        stack.callback(lambda: None if stop.is_urgent else watch.close())
        stack.callback(lambda: None if stop.is_urgent else leave_world())
        try:
            with naming_what_to_change(recipe, config, world, watch):
                state = StartUp(recipe, config, run_dir, facts, world=world, stop=stop, watch=watch, stack=stack).run()
            return watch.end(EXIT_DONE if state is None else _train_and_tell(state))
        except OutOfMemory as error:
            watch.end_with(error)
            raise OutOfMemory(f"{error}; {where_it_continues(run_dir)}") from error.__cause__
        except BaseException as error:
            watch.end_with(error)
            if told := endings.told_by_another(run_dir / endings.FOLDER, world.rank, error):
                raise ConfigError(f"{told}; {where_it_continues(run_dir)}") from error
            raise


def _train_and_tell(state: TrainState) -> int:
    """The loop, and a line in events.jsonl where it does not come to its end."""
    with ExitStack() as waiting, state.saving:
        try:
            with naming_what_to_change(state.recipe, state.config, state.world, state.watch):
                return train(state)
        except Exception as error:
            state.watch.end_with(error)  # before a running save is waited for: who ended first is the cause
            message = str(error) if isinstance(error, ConfigError | TrainingBroken) else f"{type(error).__name__}: {error}"
            tell(state, "error", message=message)
            waiting.enter_context(state.watch.paused("last save"))  # a running save takes as long as it takes
            raise


def train(state: TrainState) -> int:
    """THE loop: update, report, evaluate, save, in this order."""
    run, skipped = state.recipe.run, 0
    while state.step < run.max_steps and not state.stop.agreed:
        due = state.step + 1
        evaluates = due % run.eval_steps == 0 or due == run.max_steps
        logs = due % run.log_steps == 0 or evaluates or due == 1
        try:
            metrics = train_step(state, logs)
        except UnusableData:  # on all ranks, before anything of the update: what was learned until here stays
            _save_last(state)
            raise
        if isinstance(metrics, Skip):  # the same step number is due again, on the next batch
            skipped += 1
            check_skips(state.recipe, due, skipped, metrics.reason)
            continue
        skipped = 0
        if evaluates:
            batches = heldout_batches(state.recipe, state.data.heldout, state.config.batch, state.objective.parallel)
            here = (batch.to(state.device) for batch in batches)
            metrics.update(state.objective.evaluate(here, partial(state.beat, "evaluate")))
            state.data.bad_items.note(state.data.heldout.take_bad())
        state.beat("report")
        if logs:
            report(state, metrics)
        with state.watch.paused("save"):  # it may wait for the one before, and a disk takes as long as it takes
            state.saving.save_if_due(state.counters, state.small_states)
    _save_last(state)
    state.beat("leave")
    state.data.loader.close()
    return finish(state)


def _save_last(state: TrainState) -> None:
    tell_last_save(state)
    with state.watch.paused("last save"):
        state.saving.finish(state.counters, state.small_states)


def train_step(state: TrainState, logs: bool) -> dict[str, Any] | Skip:
    """One optimizer update over all micro-batches. Returns its metrics (only the step unless `logs`, since the others cost
    collectives), or why it was not applied: then neither weights nor moments nor what follows the student have moved."""
    start = time.perf_counter()
    objective, recipe, counters = state.objective, state.recipe, state.counters
    student, parallel = objective.student, objective.parallel
    state.beat("data")
    batches = [loaded.batch for loaded in state.data.bad_items.load(state.data.loader, counters.update)]
    total, tokens, stop = _sum_over_ranks(state, batches)
    rate = learning_rate(recipe.optim, counters.step)
    set_learning_rate(student, rate, counters.step)
    statistics, guard = objective.statistics(), UpdateGuard(student, parallel, recipe.guard, state.world, state.spikes)
    objective.stream.update = counters.update
    for number, batch in enumerate(batches):
        if number:
            student.step()  # counts the micro-batch before; the last one's step is the optimizer's
        objective.stream.micro_batch = number
        state.beat("forward", number)
        outcome = objective.forward(batch.to(state.device), total)
        if logs:
            statistics.add(outcome)
        guard.note(outcome.loss)
        state.beat("backward", number)
        backward(student, outcome.loss, total, parallel.dp_size)
    state.beat("judge")
    health, moved = guard.judge(total), dict[str, float]()
    state.beat("step")
    skip = guard.refusal(health)
    if skip:
        shards.discard_update(student)
    else:
        step(student)
        skip = guard.confirm(health)
    state.beat("after step")
    if not skip:
        moved = objective.after_step(counters.step + 1)
    _count(state, tokens, is_applied=skip is None)
    state.stop.agreed = stop > 0
    seconds = time.perf_counter() - start
    state.interval.add(seconds, tokens, state.data.loader.wait_seconds)
    tell_update(state, health, skip, seconds)
    if skip:
        return skip
    if not logs:
        return {"step": state.step}
    return {
        "step": state.step,
        **statistics.reduce(parallel.dp_group, total, tokens),
        "grad_norm": float(student.get_global_grad_norm()),
        "lr": rate,
        **moved,
    }


def _sum_over_ranks(state: TrainState, batches: list[Batch]) -> tuple[int, int, int]:
    """Count of the objective and tokens of the whole update, and how many ranks were asked to stop. TP ranks hold the same data.

    What any rank met meanwhile all agree on: undecodable items, a checkpoint that is written, a run dir that was taken over.
    Raises: UnusableData where items have become too many or nothing is counted; ConfigError where the run dir is lost.
    """
    state.beat("agree")
    own = [sum(map(state.objective.count, batches)), sum(b.num_tokens for b in batches), int(state.stop.is_asked())]
    met = [state.data.bad_items.num_new, int(state.saving.is_written()), int(state.run_dir is not None and state.run_dir.is_lost)]
    counts = torch.tensor([*own, *met], dtype=torch.int64)
    dist.all_reduce(counts, group=state.world.control)  # on the host: the device goes on with the update before
    total, tokens, stop, any_bad, written, is_lost = counts.tolist()
    if is_lost:
        state.world.on_rank_zero(lambda: _check_owner(state))
    if written == state.world.size:
        state.saving.collect(state.step)
    if any_bad:
        state.data.bad_items.agree(state.world.control, lambda item: tell(state, "bad_item", **item._asdict()))
    if total == 0:
        raise UnusableData(state.objective.nothing_counted(state.counters.update, state.recipe.run.global_batch_size))
    tp_size = state.objective.parallel.tp_size
    return total // tp_size, tokens // tp_size, stop


def _check_owner(state: TrainState) -> None:
    assert state.run_dir is not None
    state.run_dir.check()


def _count(state: TrainState, tokens: int, *, is_applied: bool) -> None:
    done = state.counters
    samples = done.samples + state.recipe.run.global_batch_size
    state.counters = Counters(done.step + is_applied, done.update + 1, samples, done.tokens + tokens)
