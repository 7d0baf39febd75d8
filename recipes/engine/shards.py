"""This rank's shards of parameters, gradients and optimizer state inside DeepSpeed's ZeRO-3, by parameter name.

This file and recipes/engine/overrides.py are the only ones that use DeepSpeed's private state. Their tests pin every attribute used
here to the tested version.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
from torch import Tensor, nn

from model.parallel import Parallel

MOMENTS = ("exp_avg", "exp_avg_sq")


def named_parameters(engine: DeepSpeedEngine) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) for all parameters of the engine's module, under the module's own names."""
    return engine.module.named_parameters()


def trained_parameters(engine: DeepSpeedEngine) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) for all parameters except those that are never trained. They have a gradient, float32 weights and Adam's
    moments."""
    return ((name, parameter) for name, parameter in named_parameters(engine) if parameter.requires_grad)


def _flat_range(parameter: nn.Parameter) -> tuple[Tensor, int, int]:
    optimizer = parameter._z3_optimizer
    group, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
    return optimizer.fp32_partitioned_groups_flat[group], offset, count


def master_shard(parameter: nn.Parameter) -> Tensor:
    """Return this rank's shard of a parameter's float32 weights, as a flat view that is padded to the partition size. A parameter that
    is never trained has no such weights; for it, return the shard that the forward uses."""
    if not parameter.requires_grad:
        return compute_shard(parameter)
    flat, offset, count = _flat_range(parameter)
    return flat.data.narrow(0, offset, count)


def moment_shard(parameter: nn.Parameter, moment: str) -> Tensor:
    """Return this rank's shard of one Adam moment ("exp_avg" or "exp_avg_sq"), as a flat view with padding. If the optimizer has not
    stepped yet, its state is created with zeros."""
    flat, offset, count = _flat_range(parameter)
    state = parameter._z3_optimizer.optimizer.state[flat]
    if moment not in state:
        state["step"] = _step_count(parameter._z3_optimizer.optimizer, 0, flat.device)
        state.update({name: torch.zeros_like(flat) for name in MOMENTS})
    return state[moment].narrow(0, offset, count)


def compute_shard(parameter: nn.Parameter) -> Tensor:
    """Return this rank's shard of the weights that the forward uses, flat, in the dtype in which it computes."""
    return parameter.ds_tensor.data


def gather_stream(engine: DeepSpeedEngine) -> Any:
    """Return the CUDA stream on which DeepSpeed gathers the engine's parameters; None on a device without streams."""
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    return offload._DeepSpeedZeRoOffload__allgather_stream


def order_gathers(engine: DeepSpeedEngine) -> None:
    """Make the engine's next gathers of weights wait for writes that are queued on the current stream. DeepSpeed itself orders only work
    that follows a gather. The host does not wait. Call it after every write into the shards that the forward uses."""
    stream = gather_stream(engine)
    if stream is not None:
        stream.wait_stream(get_accelerator().current_stream())


def set_optimizer_step(engine: DeepSpeedEngine, step: int) -> None:
    """Set how many steps the optimizer has done, which Adam's bias correction reads. Call it after the moments were written. A parameter
    group that was frozen at first counts from the end of its freeze."""
    for number, group in enumerate(engine.optimizer.param_groups):
        set_group_step(engine, number, max(0, step - group.get("frozen_steps", 0)))


def set_group_step(engine: DeepSpeedEngine, number: int, step: int) -> None:
    """Set how many steps the optimizer has done, for parameter group number `number` only."""
    optimizer = engine.optimizer.optimizer
    for index, flat in enumerate(engine.optimizer.fp32_partitioned_groups_flat):
        if engine.optimizer.sub_group_to_group_id[index] == number:
            optimizer.state[flat]["step"] = _step_count(optimizer, step, flat.device)


def _step_count(optimizer: torch.optim.Optimizer, step: int, device: torch.device) -> int | Tensor:
    """Return `step` in the type that the optimizer stores: int for DeepSpeed's CPU Adam, a float tensor on `device` for torch's fused
    AdamW."""
    return step if isinstance(optimizer, DeepSpeedCPUAdam) else torch.tensor(float(step), device=device)


LOSS_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""State of fp16's dynamic loss scaler."""


def loss_scaler_state(engine: DeepSpeedEngine) -> dict[str, float]:
    """Return the state of fp16's dynamic loss scaler, by name; {} if the loss scale does not change (fp32, bf16)."""
    scaler = engine.optimizer.loss_scaler
    return {name: float(getattr(scaler, name)) for name in LOSS_SCALER_STATE} if scaler.dynamic else {}


def set_loss_scaler_state(engine: DeepSpeedEngine, state: dict[str, float]) -> None:
    """Restore the loss scaler from what loss_scaler_state() returned. {}, as from a checkpoint of another precision, leaves its initial
    state."""
    scaler = engine.optimizer.loss_scaler
    if scaler.dynamic:
        for name, value in state.items():
            setattr(scaler, name, value if name == "cur_scale" else int(value))


def refresh_compute_weights(engine: DeepSpeedEngine) -> None:
    """Round the float32 weights to the forward's dtype and copy them into the weights that the forward uses. Call it after writing
    float32 weights. If DeepSpeed keeps some parameters whole on every rank, these are gathered again, and the call is a collective."""
    persistent = engine.optimizer.persistent_parameters
    if persistent:
        persistent[0].partition(persistent)
    with torch.no_grad():
        for _, parameter in trained_parameters(engine):
            compute_shard(parameter).copy_(master_shard(parameter))
    order_gathers(engine)
    if persistent:
        persistent[0].all_gather(persistent)


def shard_range(parameter: nn.Parameter) -> tuple[int, int]:
    """Return (first element, number of elements) of this rank's shard in the flattened parameter. The number is without padding and may
    be 0. Under tensor parallelism, the parameter is this rank's slice."""
    size = parameter.ds_tensor.ds_numel
    first = size * dist.get_rank(parameter.ds_process_group)
    return first, max(0, min(size, parameter.ds_numel - first))


def gather_full(parameter: nn.Parameter, shard: Tensor, parallel: Parallel) -> Tensor:
    """Return a whole tensor from the ranks' shards, gathered over the group that shards it, then over the tensor-parallel group. `shard`
    is this rank's: weights, gradient or a moment of `parameter`. A collective, for tests, replay and probes of small models; not for
    training."""
    parts = [torch.empty_like(shard) for _ in range(parallel.shard_size)]
    dist.all_gather(parts, shard.contiguous(), group=parallel.shard_group)
    local = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
    if not is_split(parameter):
        return local
    slices = [torch.empty_like(local) for _ in range(parallel.tp_size)]
    dist.all_gather(slices, local.contiguous(), group=parallel.tp_group)
    return torch.cat(slices, dim=parameter.partition_dim)


def gradient_shard(parameter: nn.Parameter) -> Tensor:
    """Return this rank's shard of a parameter's gradient in float32, as reduced over the data-parallel ranks. Valid after the last
    backward of an update and before step()."""
    optimizer = parameter._z3_optimizer
    return optimizer.get_local_fp32_grad_for_param(parameter).float()


def gradient_buffer(engine: DeepSpeedEngine) -> Tensor:
    """Return the flat tensor in which this rank's gradient shards lie. Not for an offloaded optimizer, whose gradients are on the host
    after the last backward of an update."""
    assert not engine.optimizer.offload_optimizer
    return engine.optimizer.grad_partitions_flat_buffer


def gradient_views(engine: DeepSpeedEngine, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return this rank's gradient shards of `parameters`, in the memory that the optimizer's step reads. Valid after the last backward of
    an update and before step(). Not for an offloaded optimizer."""
    held = ((engine.optimizer.fp16_groups[number], views) for number, views in engine.optimizer.averaged_gradients.items())
    views = {p.ds_id: view for group, views in held for p, view in zip(group, views, strict=True)}
    return [views[p.ds_id] for p in parameters]


NORM_ROW = 1024


def partial_norms(views: list[Tensor], device: torch.device) -> Tensor:
    """Return a vector of float32 norms. Their squares add up to the sum of squares of all elements of `views`, which are on `device`. On
    the CPU there is one norm for each 1024 elements, since a single float32 norm of forty million numbers is wrong in the third digit. On
    other devices there is one for each view, so that few kernels are launched."""
    if not views:
        return torch.zeros(1, device=device)
    if device.type != "cpu":
        return torch.stack(torch._foreach_norm(views, 2, dtype=torch.float32))
    norm, whole = torch.linalg.vector_norm, [view.numel() // NORM_ROW * NORM_ROW for view in views]
    rows = [norm(view[:n].view(-1, NORM_ROW), dim=1, dtype=torch.float32) for view, n in zip(views, whole, strict=True)]
    rests = [norm(view[n:], dtype=torch.float32) for view, n in zip(views, whole, strict=True)]
    return torch.cat([*rows, torch.stack(rests)])


def gradient_square(engine: DeepSpeedEngine, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the sum of squares of this rank's gradient shards of `parameters`, without the loss scale: a float64 scalar on their
    device. It is not finite if a gradient is not finite or is beyond 1e19. Call it after the last backward of an update and before its
    step(). The host does not wait."""
    optimizer, wanted = engine.optimizer, list(parameters)
    if optimizer.offload_optimizer:  # the gradients are on the host by now; DeepSpeed took their norms before
        norm_of = optimizer.norm_for_param_grads
        taken = [norm_of[i] for i in map(optimizer.get_param_id, wanted) if i in norm_of]  # a shard that is only padding has no norm
        norms = torch.stack(taken) if taken else torch.zeros(1, device=engine.device)
    else:
        norms = partial_norms(gradient_views(engine, wanted), engine.device)
    return norms.double().div(optimizer.loss_scale).square().sum()


def discard_update(engine: DeepSpeedEngine) -> None:
    """Drop the gradients of an update instead of applying it. Call it on every rank in place of step(). As in step(), the last
    micro-batch is counted; DeepSpeed's was_step_applied() is False afterwards. Nothing else changes."""
    optimizer = engine.optimizer
    optimizer.zero_grad()
    optimizer.averaged_gradients = {}
    optimizer.grad_partitions_flat_buffer.zero_()  # a parameter without a gradient in the next update would keep this update's gradient
    if optimizer.offload_optimizer:
        optimizer.reset_cpu_buffers()
        for flat in optimizer.fp32_partitioned_groups_flat:
            flat.grad.zero_()
    engine._step_applied = False
    engine.micro_steps += 1


def release(engine: DeepSpeedEngine) -> None:
    """Let the memory of a trained engine be freed, and that of all engines without an optimizer. None of them can be used afterwards.
    Otherwise DeepSpeed keeps them for the life of the process: its hooks are in cycles that Python cannot collect, and it lists modules."""
    engine.destroy()
    FWD_MODULE_STACK.clear()


def is_split(parameter: nn.Parameter) -> bool:
    """True if Megatron splits this parameter over the tensor-parallel group, False if each of its ranks holds it whole."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def scatter_full(parameter: nn.Parameter, full: Tensor, parallel: Parallel, shard: Tensor) -> None:
    """Write this rank's part of the whole tensor `full` into `shard`, which holds weights or a moment of `parameter`. No collective."""
    if is_split(parameter):
        full = full.chunk(parallel.tp_size, dim=parameter.partition_dim)[parallel.tp_rank]
    assert tuple(full.shape) == tuple(parameter.ds_shape), f"{tuple(full.shape)} into {tuple(parameter.ds_shape)}"
    first, count = shard_range(parameter)
    with torch.no_grad():
        shard[:count].copy_(full.reshape(-1)[first : first + count])
