"""The steps of one update on a trained engine: its rate, the scale of its loss, and what is frozen. Judging an update is the guard's."""

from torch import Tensor

from recipes.engine import shards
from recipes.engine.build import Engine


def set_learning_rate(engine: Engine, rate: float, steps_done: int) -> None:
    """The rate of the next step, in every parameter group. A group that is frozen until a later step gets 0, under which neither
    decay nor moments move it, and its count for the bias correction starts when it does."""
    for number, group in enumerate(engine.optimizer.param_groups):
        frozen_steps = group.get("frozen_steps", 0)
        group["lr"] = rate if steps_done >= frozen_steps else 0.0
        if 0 < steps_done <= frozen_steps:
            shards.set_group_step(engine, number, 0)


def backward(engine: Engine, loss: Tensor, total: int, dp_size: int) -> None:
    """Add a micro-batch's share of the update's gradient: d(sum of losses / `total`), where `total` is the count of the whole update.

    DeepSpeed divides by ranks and micro-batches, which would weigh micro-batches with a smaller count more; the factor undoes both.
    """
    engine.backward(loss * (dp_size * engine.gradient_accumulation_steps() / total))


def step(engine: Engine) -> None:
    """The optimizer's step, and the next forward's gathers after what it writes."""
    engine.step()
    shards.order_gathers(engine)
