"""This rank's shards of parameters, gradients and optimizer state inside DeepSpeed's ZeRO-3, by parameter name.

The only file that touches DeepSpeed's private state; its test pins every attribute used here to the tested version.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from torch import Tensor, nn

from model.parallel import Parallel

MOMENTS = ("exp_avg", "exp_avg_sq")


def named_parameters(engine: DeepSpeedEngine) -> Iterator[tuple[str, nn.Parameter]]:
    """The wrapped module's parameters under its own names."""
    return engine.module.named_parameters()


def trained_parameters(engine: DeepSpeedEngine) -> Iterator[tuple[str, nn.Parameter]]:
    """Those that are not frozen for ever: they have a gradient, master weights and moments."""
    return ((name, parameter) for name, parameter in named_parameters(engine) if parameter.requires_grad)


def _flat_range(parameter: nn.Parameter) -> tuple[Tensor, int, int]:
    optimizer = parameter._z3_optimizer
    group, offset, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
    return optimizer.fp32_partitioned_groups_flat[group], offset, count


def master_shard(parameter: nn.Parameter) -> Tensor:
    """The float32 master weights of this rank's part of a trained parameter: a view, padded to the partition size. One that is frozen
    for ever has no other weights than those that the forward gathers."""
    if not parameter.requires_grad:
        return compute_shard(parameter)
    flat, offset, count = _flat_range(parameter)
    return flat.data.narrow(0, offset, count)


def moment_shard(parameter: nn.Parameter, moment: str) -> Tensor:
    """One Adam moment of this rank's part: a view. Zeros are made where the optimizer has not stepped yet."""
    flat, offset, count = _flat_range(parameter)
    state = parameter._z3_optimizer.optimizer.state[flat]
    if moment not in state:
        state["step"] = _step_count(parameter._z3_optimizer.optimizer, 0, flat.device)
        state.update({name: torch.zeros_like(flat) for name in MOMENTS})
    return state[moment].narrow(0, offset, count)


def compute_shard(parameter: nn.Parameter) -> Tensor:
    """This rank's part of the weights that the forward gathers, in the dtype it computes in."""
    return parameter.ds_tensor.data


def gather_stream(engine: DeepSpeedEngine) -> Any:
    """The stream on which DeepSpeed gathers the engine's parameters; None on a device without streams."""
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
    return offload._DeepSpeedZeRoOffload__allgather_stream


def order_gathers(engine: DeepSpeedEngine) -> None:
    """Make the engine's next gathers wait for what the current stream is still to write into its shards. DeepSpeed orders only what
    comes after a gather. Waits for nothing on the host. Call it after every write into compute shards."""
    stream = gather_stream(engine)
    if stream is not None:
        stream.wait_stream(get_accelerator().current_stream())


def set_optimizer_step(engine: DeepSpeedEngine, step: int) -> None:
    """Set the count of updates that Adam's bias correction reads, after its moments were written. A group that was frozen at first
    counts from there."""
    for number, group in enumerate(engine.optimizer.param_groups):
        set_group_step(engine, number, max(0, step - group.get("frozen_steps", 0)))


def set_group_step(engine: DeepSpeedEngine, number: int, step: int) -> None:
    """The same count of one parameter group."""
    optimizer = engine.optimizer.optimizer
    for index, flat in enumerate(engine.optimizer.fp32_partitioned_groups_flat):
        if engine.optimizer.sub_group_to_group_id[index] == number:
            optimizer.state[flat]["step"] = _step_count(optimizer, step, flat.device)


def _step_count(optimizer: torch.optim.Optimizer, step: int, device: torch.device) -> int | Tensor:
    """As each of them keeps it: DeepSpeed's CPU Adam an int, torch's fused AdamW a float tensor beside the weights."""
    return step if isinstance(optimizer, DeepSpeedCPUAdam) else torch.tensor(float(step), device=device)


LOSS_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What fp16's dynamic loss scaler remembers of its past."""


def loss_scaler_state(engine: DeepSpeedEngine) -> dict[str, float]:
    """The dynamic loss scaler's state; {} in fp32 and bf16, which have none."""
    scaler = engine.optimizer.loss_scaler
    return {name: float(getattr(scaler, name)) for name in LOSS_SCALER_STATE} if scaler.dynamic else {}


def set_loss_scaler_state(engine: DeepSpeedEngine, state: dict[str, float]) -> None:
    """The inverse of loss_scaler_state. A checkpoint of another precision leaves the scaler as it starts."""
    scaler = engine.optimizer.loss_scaler
    if scaler.dynamic:
        for name, value in state.items():
            setattr(scaler, name, value if name == "cur_scale" else int(value))


def refresh_compute_weights(engine: DeepSpeedEngine) -> None:
    """Make the student's forward see master shards that were just written: round them into the shards it gathers, and
    renew the gathered copies of persistent parameters."""
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
    """First element and number of real (unpadded) elements of this rank's shard in the flattened TP-local tensor."""
    size = parameter.ds_tensor.ds_numel
    first = size * dist.get_rank(parameter.ds_process_group)
    return first, max(0, min(size, parameter.ds_numel - first))


def gather_full(parameter: nn.Parameter, shard: Tensor, parallel: Parallel) -> Tensor:
    """The whole tensor that a shard is part of: over the DP group, then over the TP group along Megatron's partition_dim.
    A collective; for tests, replay and probes of small models, not for training."""
    parts = [torch.empty_like(shard) for _ in range(parallel.dp_size)]
    dist.all_gather(parts, shard.contiguous(), group=parallel.dp_group)
    local = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
    if not is_split(parameter):
        return local
    slices = [torch.empty_like(local) for _ in range(parallel.tp_size)]
    dist.all_gather(slices, local.contiguous(), group=parallel.tp_group)
    return torch.cat(slices, dim=parameter.partition_dim)


def gradient_shard(parameter: nn.Parameter) -> Tensor:
    """This rank's part of the reduced gradient after the last backward of an update and before step(), in float32."""
    optimizer = parameter._z3_optimizer
    return optimizer.get_local_fp32_grad_for_param(parameter).float()


NORM_ROW = 1024


def _norms(views: list[Tensor]) -> Tensor:
    """Float32 norms whose squares sum up to the squared norm of all views. By rows on the CPU, where one float32 norm of forty
    million numbers is wrong in the third digit; in few kernels elsewhere."""
    if views[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(views, 2, dtype=torch.float32))
    norm, whole = torch.linalg.vector_norm, [view.numel() // NORM_ROW * NORM_ROW for view in views]
    rows = [norm(view[:n].view(-1, NORM_ROW), dim=1, dtype=torch.float32) for view, n in zip(views, whole, strict=True)]
    rests = [norm(view[n:], dtype=torch.float32) for view, n in zip(views, whole, strict=True)]
    return torch.cat([*rows, torch.stack(rests)])


def gradient_square(engine: DeepSpeedEngine, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Squared norm of this rank's shards of the gradients of some parameters, without the loss scale: a float64 scalar where they
    are, not finite where one of them is not or is beyond 1e19. After the last backward of an update and before its step(); waits
    for nothing."""
    optimizer, wanted = engine.optimizer, list(parameters)
    if optimizer.offload_optimizer:  # the gradients have gone to the host; their norms were taken before
        known = optimizer.norm_for_param_grads
        taken = [known[i] for i in map(optimizer.get_param_id, wanted) if i in known]  # none where the shard is padding only
        norms = torch.stack(taken) if taken else torch.zeros(1, device=engine.device)
    else:
        held = ((optimizer.fp16_groups[number], views) for number, views in optimizer.averaged_gradients.items())
        views = {p.ds_id: view for group, views in held for p, view in zip(group, views, strict=True)}
        norms = _norms([views[p.ds_id] for p in wanted]) if wanted else torch.zeros(1, device=engine.device)
    return norms.double().div(optimizer.loss_scale).square().sum()


def discard_update(engine: DeepSpeedEngine) -> None:
    """In place of the step() that would apply an update: forget its gradients and count its last micro-batch. Nothing else changes;
    was_step_applied() is False afterwards. Every rank calls it for the same update."""
    optimizer = engine.optimizer
    optimizer.zero_grad()
    optimizer.averaged_gradients = {}
    optimizer.grad_partitions_flat_buffer.zero_()  # a parameter without a gradient in the next update would still hold this one's
    if optimizer.offload_optimizer:
        optimizer.reset_cpu_buffers()
        for flat in optimizer.fp32_partitioned_groups_flat:
            flat.grad.zero_()
    engine._step_applied = False
    engine.micro_steps += 1


def is_split(parameter: nn.Parameter) -> bool:
    """Whether Megatron split this parameter over the TP group."""
    return bool(getattr(parameter, "tensor_model_parallel", False))


def scatter_full(parameter: nn.Parameter, full: Tensor, parallel: Parallel, shard: Tensor) -> None:
    """Write this rank's part of a whole tensor into `shard`, which is any of its kinds. No collective."""
    if is_split(parameter):
        full = full.chunk(parallel.tp_size, dim=parameter.partition_dim)[parallel.tp_rank]
    assert tuple(full.shape) == tuple(parameter.ds_shape), f"{tuple(full.shape)} into {tuple(parameter.ds_shape)}"
    first, count = shard_range(parameter)
    with torch.no_grad():
        shard[:count].copy_(full.reshape(-1)[first : first + count])
