"""Decides before the optimizer's step, on all ranks together, whether an update is skipped: its loss or gradient is not finite, or it is
a spike. Also ends a run that skips too many updates in a row. Spikes are defined in recipes/train/spikes.py."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel import Parallel
from recipes.cluster.world import World
from recipes.config import GuardConfig, Recipe
from recipes.data.loader import rank_share
from recipes.data.order import Position
from recipes.ds_config import BatchPlan
from recipes.engine import shards
from recipes.engine.build import Engine
from recipes.errors import TrainingBroken
from recipes.train.spikes import Spike, SpikeStatistic

NAMED_PARAMETERS = 3
"""A skip event names at most this many parameters with a non-finite gradient, per rank."""


@dataclass(frozen=True)
class UpdateHealth:
    """The loss and the gradient norm of an update, how many ranks have non-finite ones, and the spikes. The same on every rank."""

    loss: float
    """Sum over the finite micro-batches, divided by the count of the whole update."""
    grad_norm: float
    """Norm of the whole gradient before clipping. Replicated parameters count once. Only finite shards are included."""
    ranks_with_bad_loss: int
    ranks_with_bad_gradient: int
    spikes: tuple[Spike, ...] = ()

    @property
    def is_finite(self) -> bool:
        """True if loss and gradient are finite on all ranks."""
        return not self.ranks_with_bad_loss and not self.ranks_with_bad_gradient


@dataclass(frozen=True)
class Skip:
    """An update that was not applied: the reason, and the ranks whose loss or gradient was not finite (none after a spike)."""

    reason: str
    ranks: tuple[dict[str, Any], ...] = ()
    """One entry per rank at fault: `rank`, `micro_batches` (numbers of those whose loss is not finite), `parameters` (names of the first
    ones whose gradient is not finite)."""


class UpdateGuard:
    """Decides whether one optimizer update is applied. Call note() for each micro-batch, judge() and refusal() before the optimizer's
    step, and confirm() after it. judge() and refusal() are collectives."""

    def __init__(self, student: Engine, parallel: Parallel, config: GuardConfig, world: World, spikes: SpikeStatistic) -> None:
        """`spikes`: the statistic of earlier updates. confirm() adds this update to it."""
        self._student, self._parallel, self._config, self._world, self._spikes = student, parallel, config, world, spikes
        self._losses: list[Tensor] = []
        self._ranks: tuple[dict[str, Any], ...] = ()

    def note(self, loss: Tensor) -> None:
        """Add the loss of one micro-batch: a sum over the positions that the objective counts. It stays on its device, so this does not
        wait for the device."""
        self._losses.append(loss.detach().double())

    def judge(self, total: int) -> UpdateHealth:
        """Return loss, gradient norm and faults of the update, combined over all ranks. Call it before the optimizer's step.

        `total`: number of positions that the loss counts in the whole update. The ranks combine their numbers on their devices, in
        one collective, and the host waits for the device once.
        """
        student, losses = self._student, torch.stack(self._losses)
        counted, repeated = list[nn.Parameter](), list[nn.Parameter]()
        for _, parameter in shards.trained_parameters(student):
            (counted if self._counts(parameter) else repeated).append(parameter)
        square, other_square = (shards.gradient_square(student, group).to(student.device) for group in (counted, repeated))
        own = [
            ~losses.isfinite().all(),
            ~(square + other_square).isfinite(),
            losses.where(losses.isfinite(), 0.0).sum() * (self._parallel.tp_rank == 0),  # all TP ranks have the same loss
            square.where(square.isfinite(), 0.0),
        ]
        sums = torch.stack([value.double() for value in own])
        dist.all_reduce(sums)  # the group of all ranks on their devices
        bad_losses, bad_gradients, loss, square_sum = sums.tolist()
        health = UpdateHealth(loss / total, math.sqrt(square_sum), int(bad_losses), int(bad_gradients))
        if not health.is_finite:
            return health
        return UpdateHealth(health.loss, health.grad_norm, 0, 0, tuple(self._spikes.find(health.loss, health.grad_norm)))

    def _counts(self, parameter: nn.Parameter) -> bool:
        """True if this rank's shard of the parameter's gradient counts for the norm, in which each value counts once. A parameter that
        several ranks hold whole has a gradient on each: all must be finite, and that of TP rank 0 counts, since it is applied. Of several
        copies of the model, the first counts."""
        return self._parallel.replica_rank == 0 and (self._parallel.tp_rank == 0 or shards.is_split(parameter))

    def refusal(self, health: UpdateHealth) -> Skip | None:
        """Return why the update must be skipped, with the ranks at fault; None if the optimizer's step may be called.

        A bad gradient in fp16 is no reason: the loss scaler handles it in that step. `health`: the result of judge().
        """
        reason = reason_to_skip(health, self._config, is_scaled=self._student.fp16_enabled())
        self._ranks = () if health.is_finite else self._blame(health)
        return Skip(reason, self._ranks) if reason else None

    def confirm(self, health: UpdateHealth) -> Skip | None:
        """Return a Skip if the loss scaler has not applied the update; else add the update to the spike statistic and return None.

        Call it after the optimizer's step. `health`: the result of judge().
        """
        if not self._student.was_step_applied():
            return Skip("gradient overflow", self._ranks)
        self._spikes.add(health.loss, health.grad_norm)
        return None

    def _blame(self, health: UpdateHealth) -> tuple[dict[str, Any], ...]:
        """Return one entry per rank at fault: its number, its bad micro-batches and its first bad parameters. A collective.

        If a loss is bad, only ranks with a bad loss are listed, because it makes the gradients of other ranks bad too.
        """
        bad = [number for number, loss in enumerate(self._losses) if not torch.isfinite(loss)]
        parameters = shards.trained_parameters(self._student)
        names = [n for n, p in parameters if not torch.isfinite(shards.gradient_square(self._student, [p]))]
        own = {"rank": self._world.rank, "micro_batches": bad, "parameters": names[:NAMED_PARAMETERS]}
        gathered: list[Any] = [None] * self._world.size
        dist.all_gather_object(gathered, own, group=self._world.control)
        return tuple(rank for rank in gathered if rank["micro_batches" if health.ranks_with_bad_loss else "parameters"])


def reason_to_skip(health: UpdateHealth, config: GuardConfig, *, is_scaled: bool) -> str | None:
    """Return why an update must be skipped; None if it may be applied. `is_scaled`: training is in fp16. Then a gradient overflow is no
    reason, because the loss scaler must see it."""
    if health.ranks_with_bad_loss:
        return "non-finite loss"
    if health.ranks_with_bad_gradient:
        return None if is_scaled else "non-finite gradient"
    if health.spikes and config.spike == "skip":
        return "spike of " + " and ".join(spike.quantity for spike in health.spikes)
    return None


def blamed_samples(skip: Skip, positions: list[Position], batch: BatchPlan) -> list[tuple[int, int]]:
    """Return (epoch, index) of the samples that may have caused a skip: those in micro-batches with a bad loss, else all of the update.

    `positions`: the places of all samples of the update, in the order in which the ranks share them.
    """
    blamed: list[Position] = []
    for rank in skip.ranks:
        own = positions[rank_share(len(positions), rank["rank"] // batch.tp_size, batch.dp_size)]
        for number in rank["micro_batches"]:
            blamed += own[number * batch.micro_batch_size : (number + 1) * batch.micro_batch_size]
    # the TP ranks of a group have the same samples
    return list(dict.fromkeys((position.epoch, position.index) for position in blamed or positions))


def check_skips(recipe: Recipe, step: int, skipped_in_a_row: int, reason: str) -> None:
    """End the run if too many updates in a row were skipped. `reason`: that of the last skip, for the message.

    Raises: TrainingBroken after guard.max_skipped_in_a_row of them.
    """
    if skipped_in_a_row >= recipe.guard.max_skipped_in_a_row:
        raise TrainingBroken(
            f"{skipped_in_a_row} updates in a row were skipped at step {step}, the last for a {reason}; look at the skip events in "
            "events.jsonl and at loss and grad_norm before them, then lower optim.lr, leave fp16 for bf16 or take out the data they name"
        )


def check_finite(metrics: Mapping[str, Any]) -> None:
    """End the run if the loss of a logged step is not finite. Raises: TrainingBroken."""
    if not math.isfinite(metrics["loss"]):
        raise TrainingBroken(
            f"loss is {metrics['loss']} at step {metrics['step']}; look at grad_norm and lr in metrics.jsonl, then lower optim.lr "
            "or lengthen optim.warmup_steps"
        )
