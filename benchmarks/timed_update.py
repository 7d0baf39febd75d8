"""Runs updates on the engines of training and takes the time of each part; measures the peak rate of matrix products."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from recipes.config import Recipe
from recipes.engine.build import Engine
from recipes.engine.replicated import share_gradients
from recipes.engine.update import add_up_replicas, backward, clear_gradients, set_learning_rate, step
from recipes.train.guard import UpdateGuard
from recipes.train.schedule import learning_rate
from recipes.train.spikes import SpikeStatistic

WARM_UP = 4
"""Updates after which the allocator has its blocks and page faults have stopped."""
MATMUL_SIZE, MATMUL_REPEATS = 2048, 6


class EngineSteps:
    """The engines of one recipe, on which updates are done like training does them, each on the same batch."""

    def __init__(self, recipe: Recipe, objective: Any, batch: Any, world: Any) -> None:
        """`batch`: a micro-batch on the device, which is the whole update."""
        self.recipe, self.objective, self.batch, self._world = recipe, objective, batch, world
        self.number = 0
        """Updates done so far."""
        self.metrics_seconds = 0.0
        """Duration of the metrics of the last update, which training computes only for logged updates."""
        self._spikes = SpikeStatistic(recipe.guard)
        self._spikes.load(dict.fromkeys(self._spikes.state(), [1e6] * recipe.guard.spike_window))  # a full window, as later in a run

    def update(self, *, waits: bool = True, micro_batches: int = 1) -> dict[str, float]:
        """Do the next update, which runs the batch `micro_batches` times. Return the seconds of its parts, as timed_step() does."""
        objective, optim = self.objective, self.recipe.optim
        set_learning_rate(objective.student, learning_rate(optim, self.number), self.number)
        objective.stream.update = self.number
        guard = UpdateGuard(objective.student, objective.parallel, self.recipe.guard, self._world, self._spikes)
        self.number += 1
        outcomes: list[Any] = []
        seconds = timed_step(
            objective, self.batch, guard, waits=waits, number=self.number, micro_batches=micro_batches, keep=outcomes.append
        )
        start = time.perf_counter()
        statistics = objective.statistics()
        statistics.add(outcomes[0])
        statistics.reduce(objective.parallel.dp_group, objective.count(self.batch), self.batch.num_tokens)
        self.metrics_seconds = time.perf_counter() - start
        return seconds


def timed_step(
    objective: Any,
    batch: Any,
    guard: UpdateGuard,
    *,
    waits: bool = True,
    number: int = 1,
    micro_batches: int = 1,
    keep: Callable[[Any], object] = id,
) -> dict[str, float]:
    """Run one update, and return the seconds of each part: the forward of each engine, the objective's own work (`loss`), backward, guard,
    optimizer and the rest.

    `waits`: synchronise with the CUDA device after each part. Without it the host runs ahead, as in training, and the seconds are those of
    the host. `number`: that of the update, from 1. `micro_batches`: how often the batch is run. `keep` gets the outcome of each forward.
    """
    seconds: dict[str, float] = defaultdict(float)
    is_cuda = torch.device(objective.student.device).type == "cuda"

    def clock(name: str, job: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = job()
        if is_cuda and waits:
            torch.cuda.synchronize()
        seconds[name] += time.perf_counter() - start
        return out

    student, parallel = objective.student, objective.parallel
    total = objective.count(batch) * parallel.dp_size * micro_batches  # every rank has batches of this size
    for micro_batch in range(micro_batches):
        if micro_batch:
            student.step()  # counts the micro-batch before
        objective.stream.micro_batch = micro_batch
        with timed_forwards(objective, clock):
            outcome = clock("loss", lambda: objective.forward(batch, total))
        clock("backward", lambda outcome=outcome: backward(student, outcome.loss, total, parallel.shard_size))
        guard.note(outcome.loss)
        keep(outcome)
    seconds["loss"] -= sum(value for name, value in seconds.items() if name.endswith("_forward"))
    clock("sum of copies", lambda: add_up_replicas(student, parallel))
    health = clock("guard", lambda: guard.judge(total))
    assert guard.refusal(health) is None, health
    clock("sum of replicated", lambda: share_gradients(student, parallel))
    clock("optimizer", lambda: step(student))
    clear_gradients(student, parallel)
    guard.confirm(health)
    clock("after_step", lambda: objective.after_step(number))
    return dict(seconds)


@contextmanager
def timed_forwards(objective: Any, clock: Callable[[str, Callable[[], Any]], Any]):
    """In this block every forward of an engine of the objective is run by `clock(name, job)`. The name is that of the attribute with
    `_forward`, such as student_forward."""
    engines = {name: engine for name, engine in vars(objective).items() if isinstance(engine, Engine)}
    for name, engine in engines.items():
        forward = engine.forward
        engine.forward = lambda *args, name=name, forward=forward: clock(f"{name}_forward", lambda: forward(*args))
    try:
        yield
    finally:
        for engine in engines.values():
            del engine.forward  # restores the method of the class


def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Return the highest rate of a few products of 2048 x 2048 matrices by torch.mm, in FLOP/s."""
    a = torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device).to(dtype)
    best = float("inf")
    for _ in range(MATMUL_REPEATS):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * MATMUL_SIZE**3 / best
