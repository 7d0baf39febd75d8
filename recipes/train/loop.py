"""The training loop and one optimizer update. The same for every objective, modality, ds_config and number of ranks."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from model.batch import Batch
from recipes.checkpoint.layout import Counters
from recipes.cluster.environment import is_first_rank
from recipes.cluster.world import join_world, leave_world
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.engine import shards
from recipes.engine.replicated import share_gradients
from recipes.engine.update import add_up_replicas, backward, clear_gradients, set_learning_rate, step
from recipes.errors import ConfigError, OutOfMemory, TrainingBroken, UnusableData
from recipes.system.terminal import limit_waiting
from recipes.train.guard import Skip, UpdateGuard, UpdateHealth, check_skips
from recipes.train.loading import heldout_batches
from recipes.train.memory import explaining_out_of_memory, resume_hint
from recipes.train.preempt import StopRequest
from recipes.train.probe import ProbeSource
from recipes.train.report import EXIT_DONE, finish, report, report_event, report_first_probe, report_last_save, report_update
from recipes.train.schedule import learning_rate
from recipes.train.startup import StartUp
from recipes.train.state import TrainState
from recipes.watch import endings
from recipes.watch.watch import Watch

TERMINAL_SECONDS = 10.0
"""How long a terminal that accepts no output may block training, once. Shorter than the limit of any hang, longer than a slow
connection takes."""


def run(recipe: Recipe, config: EngineConfig, run_dir: Path, launch_info: dict[str, Any], probes: ProbeSource | None = None) -> int:
    """Train `recipe` in `run_dir` until run.max_steps, from its newest checkpoint if it has one. Returns the exit code.

    `launch_info` (versions, command line) is written to config.json. `probes` opens the probe of the recipe, if it has one. Raises:
    ConfigError, TrainingBroken.
    """
    limit_waiting(TERMINAL_SECONDS)
    limits: dict[str, Any] = {"max_minutes": recipe.run.max_minutes, "file": run_dir / "stop"} if is_first_rank() else {}
    with StopRequest(**limits) as stop, ExitStack() as stack:
        world = join_world()
        watch = Watch(run_dir / endings.FOLDER, world.rank, world.hosts, recipe.run.hang_seconds)
        # Both wait for other ranks, and after a second SIGINT nothing may wait. The run dir is released before them.
        stack.callback(lambda: None if stop.is_urgent else watch.close())
        stack.callback(lambda: None if stop.is_urgent else leave_world())
        try:
            with explaining_out_of_memory(recipe, config, world, watch):
                start = StartUp(recipe, config, run_dir, launch_info, world=world, stop=stop, watch=watch, stack=stack, probes=probes)
                state = start.run()
            return watch.end(EXIT_DONE if state is None else _train_and_report(state))
        except OutOfMemory as error:
            watch.report_error(error)
            raise OutOfMemory(f"{error}; {resume_hint(run_dir)}") from error.__cause__
        except BaseException as error:
            watch.report_error(error)
            if cause := endings.config_error_of_another_rank(run_dir / endings.FOLDER, world.rank, error):
                raise ConfigError(f"{cause}; {resume_hint(run_dir)}") from error
            raise


def _train_and_report(state: TrainState) -> int:
    """Run the loop. If it fails, write an `error` event to events.jsonl."""
    with ExitStack() as waiting, state.saving:
        try:
            with explaining_out_of_memory(state.recipe, state.config, state.world, state.watch):
                return train(state)
        except Exception as error:
            state.watch.report_error(error)  # before waiting for a running save: the rank that ended first is taken for the cause
            message = str(error) if isinstance(error, ConfigError | TrainingBroken) else f"{type(error).__name__}: {error}"
            report_event(state, "error", message=message)
            waiting.enter_context(state.watch.paused("last save"))  # the duration of a running save is unbounded
            raise


def train(state: TrainState) -> int:
    """Train until run.max_steps or until a rank was asked to stop: update, evaluate, probe, report, save, in this order. Returns the exit
    code."""
    run, skipped = state.recipe.run, 0
    if state.probe and state.step == 0:
        report_first_probe(state, state.probe.run(state.objective.student, partial(state.beat, "probe")))
    while not state.is_done and not state.stop.agreed:
        due = state.step + 1
        evaluates = due % run.eval_steps == 0 or due == run.max_steps
        probes = state.probe is not None and (due % state.recipe.eval.probe_steps == 0 or due == run.max_steps)
        logs = due % run.log_steps == 0 or evaluates or probes or due == 1
        try:
            with state.profiler.around(due):
                metrics = train_step(state, logs)
        except UnusableData:  # on all ranks, before any change by this update: save what was learned so far
            _save_last(state)
            raise
        if metrics is None:  # a rank was asked to stop
            break
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
        if probes and state.probe:
            metrics.update(state.probe.run(state.objective.student, partial(state.beat, "probe")))
        is_best = evaluates and state.best.note(state.recipe.eval, metrics, state.step)
        state.beat("report")
        if logs:
            report(state, metrics)
        with state.watch.paused("save"):  # it may wait for the save before, whose duration is unbounded
            state.saving.save_if_due(state.counters, state.small_states, is_asked=is_best)
    _save_last(state)
    state.beat("leave")
    state.data.loader.close()
    state.agreement.close()
    return finish(state)


def _save_last(state: TrainState) -> None:
    report_last_save(state)
    with state.watch.paused("last save"):
        state.saving.finish(state.counters, state.small_states)


def train_step(state: TrainState, logs: bool) -> dict[str, Any] | Skip | None:
    """Do one optimizer update over all micro-batches. Return its metrics, a Skip if it was not applied, or None if it was not begun, since
    a rank was asked to stop. The first update of a launch is done in any case, so that each launch makes progress.

    Without `logs` the metrics are {"step": ...} only, since the others cost collectives. After a Skip the weights, the optimizer's
    moments and what follows the student are unchanged.
    """
    start = time.perf_counter()
    objective, recipe, counters = state.objective, state.recipe, state.counters
    student, parallel = objective.student, objective.parallel
    batches, total, tokens = _begin_update(state)
    if state.stop.agreed and state.agreement.num_taken > 1:
        return None
    rate = learning_rate(recipe.optim, counters.step)
    set_learning_rate(student, rate, counters.step)
    statistics, guard = objective.statistics(), UpdateGuard(student, parallel, recipe.guard, state.world, state.spikes)
    objective.stream.update = counters.update
    for number, batch in enumerate(state.feed.batches(batches, partial(state.data.loader.first_of, counters.update + 1))):
        if number:
            student.step()  # counts the previous micro-batch; after the last one, step() is the optimizer's
        objective.stream.micro_batch = number
        _send_next_counts(state)
        state.beat("forward", number)
        outcome = objective.forward(batch, total)
        if logs:
            statistics.add(outcome)
        guard.note(outcome.loss)
        state.beat("backward", number)
        backward(student, outcome.loss, total, parallel.shard_size)
    _send_next_counts(state)
    health, skip = _apply(state, guard, total)
    state.beat("after step")
    moved = dict[str, float]()
    if not skip:
        moved = objective.after_step(counters.step + 1)
    _count(state, tokens, is_applied=skip is None)
    seconds = time.perf_counter() - start
    state.interval.add(seconds, tokens, state.data.loader.wait_seconds)
    report_update(state, health, skip, seconds)
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


def _apply(state: TrainState, guard: UpdateGuard, total: int) -> tuple[UpdateHealth, Skip | None]:
    """Apply the update by the optimizer's step, or discard it if the guard says so. Return its health, and a Skip if it was not applied."""
    student, parallel = state.objective.student, state.objective.parallel
    state.beat("judge")
    add_up_replicas(student, parallel)
    health = guard.judge(total)
    state.beat("step")
    skip = guard.refusal(health)
    if skip:
        shards.discard_update(student)
        return health, skip
    share_gradients(student, parallel)
    step(student)
    clear_gradients(student, parallel)
    return health, guard.confirm(health)


def _begin_update(state: TrainState) -> tuple[list[Batch], int, int]:
    """Return this rank's micro-batches of the update, and the positions that its loss counts and its tokens, both over all ranks. Whether
    a rank was asked to stop is in state.stop.agreed afterwards. Raises: see _sum_over_ranks()."""
    update = state.counters.update
    state.beat("data")
    batches = [loaded.batch for loaded in state.data.bad_items.load(state.data.loader, update)]
    if not state.agreement.is_begun(update):
        _send_counts(state, update, batches)
    total, tokens, stop = _sum_over_ranks(state)
    state.stop.agreed = stop > 0
    return batches, total, tokens


def _send_next_counts(state: TrainState) -> None:
    """Begin the exchange for the next update if its batches are ready and it was not begun before. It travels on the host while the device
    works on this update. If the batches come later, it begins with the next update."""
    update = state.counters.update + 1
    if state.agreement.is_begun(update):
        return
    loaded = state.data.bad_items.peek(state.data.loader, update)
    if loaded is not None:
        _send_counts(state, update, [item.batch for item in loaded])


def _send_counts(state: TrainState, update: int, batches: list[Batch]) -> None:
    """Begin the exchange for `update`, of which `batches` are this rank's micro-batches: what they count, and what has happened on this
    rank (a request to stop, undecodable items, a written checkpoint, a lost run dir)."""
    own = [sum(map(state.objective.count, batches)), sum(b.num_tokens for b in batches), int(state.stop.is_requested())]
    happened = [state.data.bad_items.num_new, state.saving.written_step(), int(state.run_dir is not None and state.run_dir.is_lost)]
    state.agreement.begin(update, [*own, *happened])


def _sum_over_ranks(state: TrainState) -> tuple[int, int, int]:
    """Return three sums over all ranks: positions that the loss counts and tokens, both for the whole update, and ranks asked to stop.

    Data that the ranks of a TP group share are counted once. The same exchange shares what had happened on any rank when that rank sent
    its numbers, and this function acts on it.
    Raises: UnusableData if there are too many bad items or nothing is counted; ConfigError if the run dir is lost.
    """
    state.beat("agree")
    total, tokens, stop, any_bad, written, is_lost = state.agreement.take()
    if is_lost:
        state.world.on_rank_zero(lambda: _check_owner(state))
    if written and written == state.world.size * state.saving.running_step:  # not so if another save has begun since
        state.saving.collect(state.step)
    if any_bad:
        state.data.bad_items.agree(state.world.control, lambda item: report_event(state, "bad_item", **item._asdict()))
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
