"""DeepSpeed's CPU Adam, made a function of the step number alone. Which optimizer a run has: recipes/train/engine.py."""

from typing import Any

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam

FAR_STEP = 2**40
"""No step that a run reaches is this one or next to it."""


def build_cpu_adam(groups: list[dict[str, Any]], **numbers: Any) -> DeepSpeedCPUAdam:
    """DeepSpeedCPUAdam whose bias correction is a power of beta at every step.

    Its C++ keeps beta^t as a running product while steps are consecutive and takes the power after a jump, so a resumed run
    would differ from an uninterrupted one in the last bit. Here every step is a jump.
    Source: deepspeed 0.19.8, ops/csrc/includes/cpu_adam.h, IncrementStep.
    """
    optimizer = DeepSpeedCPUAdam(groups, adamw_mode=True, **numbers)
    optimizer.register_step_pre_hook(_jump)  # not a subclass: ZeRO asks for the exact type
    return optimizer


def _jump(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Update one element that belongs to nobody at a far step."""
    assert isinstance(optimizer, DeepSpeedCPUAdam)
    group, nobody = optimizer.param_groups[0], [torch.zeros(1) for _ in range(4)]
    numbers = [group[key] for key in ("eps", "weight_decay", "bias_correction")]
    optimizer.ds_opt_adam.adam_update(optimizer.opt_id, FAR_STEP, group["lr"], *group["betas"], *numbers, *nobody)
