"""The steps of one update on a trained engine: learning rate, loss scaling, and parameters that are frozen at first. Whether an update
is applied is decided in recipes/train/guard.py."""

import torch.distributed as dist
from torch import Tensor

from model.parallel import Parallel
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


def backward(engine: Engine, loss: Tensor, total: int, shard_size: int) -> None:
    """Add the gradient of one micro-batch. `loss` is its summed loss over the counted items, such as labels. `total` is the number of
    these items in the whole update, over all ranks. So the update's gradient is that of the mean loss.

    DeepSpeed divides by the number of ranks that shard a copy of the model (`shard_size`) and of micro-batches, so micro-batches with a
    smaller count would weigh more. The factor undoes both divisions.
    """
    engine.backward(loss * (shard_size * engine.gradient_accumulation_steps() / total))


def add_up_replicas(engine: Engine, parallel: Parallel) -> None:
    """If the model exists in several copies, sum their gradients, so that each rank has its shard of the whole update's gradient. Call it
    after the last backward of an update. A collective: one for all gradients, in float32."""
    if parallel.replicas is not None:
        gradients = shards.gradient_buffer(engine)
        summed = gradients.float()  # a copy only if they are not float32
        dist.all_reduce(summed, group=parallel.replicas.replica_group)
        gradients.copy_(summed)


def clear_gradients(engine: Engine, parallel: Parallel) -> None:
    """If the model exists in several copies, set all gradients to 0. Call it after each step(). DeepSpeed keeps the gradient of a weight
    that gets none in the next update, and add_up_replicas() would multiply it by the number of copies each time."""
    if parallel.replicas is not None:
        shards.gradient_buffer(engine).zero_()


def step(engine: Engine) -> None:
    """Apply the update by the optimizer's step, and make the next forward wait for the new weights."""
    engine.step()
    shards.order_gathers(engine)
