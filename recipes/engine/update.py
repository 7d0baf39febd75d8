"""The steps of one update on a trained engine: learning rate, loss scaling, and parameters that are frozen at first. Whether an update is
applied is decided elsewhere (recipes/train/guard.py)."""

from torch import Tensor

from recipes.engine import shards
from recipes.engine.build import Engine


def set_learning_rate(engine: Engine, rate: float, steps_done: int) -> None:
    """Set the learning rate of the next step in every parameter group. A group that is still frozen gets rate 0, so that neither weight
    decay nor moments change it. Its step count for the bias correction starts when its freeze ends."""
    for number, group in enumerate(engine.optimizer.param_groups):
        frozen_steps = group.get("frozen_steps", 0)
        group["lr"] = rate if steps_done >= frozen_steps else 0.0
        if 0 < steps_done <= frozen_steps:
            shards.set_group_step(engine, number, 0)


def backward(engine: Engine, loss: Tensor, total: int, dp_size: int) -> None:
    """Add a micro-batch's part of the update's gradient: d(sum of losses / `total`), where `total` is the count of the whole update.

    DeepSpeed divides by the number of ranks and of micro-batches, so micro-batches with a smaller count would weigh more. The factor undoes
    both divisions.
    """
    engine.backward(loss * (dp_size * engine.gradient_accumulation_steps() / total))


def step(engine: Engine) -> None:
    """Take the optimizer's step, and make the next forward's gathers wait for its writes."""
    engine.step()
    shards.order_gathers(engine)
