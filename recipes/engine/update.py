"""The steps of one update on a trained engine: learning rate, loss scaling, and parameters that are frozen at first. Whether an update
is applied is decided in recipes/train/guard.py."""

from torch import Tensor

from recipes.engine import shards
from recipes.engine.build import Engine


def set_learning_rate(engine: Engine, rate: float, steps_done: int) -> None:
    """Set the learning rate of the next step: `rate` times the `lr_scale` of each parameter group. `steps_done`: optimizer steps so far.
    A parameter group that is still frozen gets rate 0, so that neither weight decay nor moments change it. Its step count for the bias
    correction starts when its freeze ends."""
    for number, group in enumerate(engine.optimizer.param_groups):
        frozen_steps = group.get("frozen_steps", 0)
        group["lr"] = rate * group.get("lr_scale", 1.0) if steps_done >= frozen_steps else 0.0
        if 0 < steps_done <= frozen_steps:
            shards.set_group_step(engine, number, 0)


def backward(engine: Engine, loss: Tensor, total: int, dp_size: int) -> None:
    """Add the gradient of one micro-batch. `loss` is its summed loss over the counted items, such as labels. `total` is the number of
    these items in the whole update, over all ranks. So the update's gradient is that of the mean loss.

    DeepSpeed divides by the number of ranks and of micro-batches, so micro-batches with a smaller count would weigh more. The factor
    undoes both divisions.
    """
    engine.backward(loss * (dp_size * engine.gradient_accumulation_steps() / total))


def step(engine: Engine) -> None:
    """Apply the update by the optimizer's step, and make the next forward wait for the new weights."""
    engine.step()
    shards.order_gathers(engine)
