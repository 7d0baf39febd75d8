"""Compare a front-end on two ranks under ZeRO-3 with the same one held whole: initial values, outputs and gradients. No settings here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel, init_parallel

LEARNING_RATE = 0.01
Build = Callable[[Init, Parallel, DropoutStream], nn.Module]
ZERO_3 = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_allow_untested_optimizer": True,
    "gradient_clipping": 0.0,  # DeepSpeed's default is 1
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def build_whole(build: Build) -> nn.Module:
    """Build the front-end whole, in one process."""
    return build(Init(1), init_parallel(1, "cpu"), DropoutStream())


def compare_with_whole(build: Build, inputs: list[Tensor | None]) -> dict[str, float]:
    """Return the largest difference, over the elements, of each parameter's initial values and of its gradients (relative to its largest
    element), of the outputs, and of the outputs one step later, from given features. Every rank reads the same inputs:
    (inputs, mask, padding)."""
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    whole = build_whole(build)
    parallel = init_parallel(1, "cpu")
    with deepspeed.zero.Init(config_dict_or_path=dict(ZERO_3), data_parallel_group=parallel.dp_group, mpu=parallel):
        sharded = build(Init(1), parallel, DropoutStream())
    assert all(p.numel() == 0 for p in sharded.parameters()), "each parameter is partitioned as its constructor returns"
    seen = {}
    for (name, expected), parameter in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([parameter]):
            seen[f"first {name}"] = distance(parameter, expected)
    engine, *_ = deepspeed.initialize(
        model=sharded,
        optimizer=torch.optim.SGD(sharded.parameters(), lr=LEARNING_RATE),
        config=dict(ZERO_3),
        mpu=parallel,
        dist_init_required=False,
    )
    output, expected_output = engine(*inputs), whole(*inputs)
    seen["output"] = max(distance(a, b) for a, b in zip(tensors(output), tensors(expected_output), strict=True))
    engine.backward(total(output))
    total(expected_output).backward()
    for (name, expected), parameter in zip(whole.named_parameters(), engine.module.parameters(), strict=True):
        assert expected.grad is not None, name
        seen[f"gradient {name}"] = distance(safe_get_full_grad(parameter), expected.grad) / float(expected.grad.abs().max())
    engine.step()
    torch.optim.SGD(whole.parameters(), LEARNING_RATE).step()
    clean = (inputs[0], None, inputs[2], expected_output.features_BND)
    with torch.no_grad():
        seen["later output"] = max(distance(a, b) for a, b in zip(tensors(engine(*clean)), tensors(whole(*clean)), strict=True))
    return seen


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def tensors(output: Any) -> list[Tensor]:
    """Return the parts of a FrontendOutput that are not None."""
    return [part for part in output if part is not None]


def total(output: Any) -> Tensor:
    """Return a scalar to which every output with a gradient contributes, with different weights."""
    parts = [part for part in tensors(output) if part.requires_grad]
    return sum((part * torch.sin(torch.arange(part.numel()).view_as(part))).sum() for part in parts) + 0.0 * parts[0].sum()
