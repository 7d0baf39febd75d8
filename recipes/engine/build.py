"""Any torch module -> its DeepSpeed ZeRO-3 engine: partitioned from the first tensor on, with an optimizer or without. Knows no objective;
the steps of an update are in recipes/engine/update.py."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from model.dropout import DropoutStream
from model.parallel import Parallel
from recipes.config import OptimConfig
from recipes.ds_config import EngineConfig
from recipes.engine import allocator
from recipes.engine.cpu_adam import build_cpu_adam

Engine: TypeAlias = deepspeed.DeepSpeedEngine
MakeModule = Callable[[], nn.Module]
OptimizerBuilder = Callable[[nn.Module], torch.optim.Optimizer]
Frozen = Mapping[str, int | None]
"""Prefix of parameter names -> optimizer steps for which they stay as they are; None: for ever. Such parameters must be run under
no_grad for as long."""

PRECISIONS = ("bf16", "fp16", "fp32")


@dataclass(frozen=True)
class EngineBuilder:
    """What all engines of one run are built with."""

    config: EngineConfig
    optim: OptimConfig
    parallel: Parallel
    stream: DropoutStream
    """Counted randomness of the trained module; the loop sets its update and micro-batch."""
    optimizer: OptimizerBuilder | None = None
    """In place of the recipe's."""

    def trained(self, make: MakeModule, frozen: Frozen | None = None) -> Engine:
        """The engine that is stepped. `make` builds the module; each rank holds its part, plus one layer while it is being made."""
        module = self.partitioned(make)
        freeze = frozen or {}
        for name, parameter in module.named_parameters():
            if _frozen_steps(name, freeze) is None:
                parameter.requires_grad_(False)
        optimizer = self.optimizer(module) if self.optimizer else build_optimizer(module, self.optim, self.config, freeze)
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=copy.deepcopy(self.config.deepspeed),
            mpu=self.parallel,
            dist_init_required=False,
        )
        return engine

    def fixed(self, make: MakeModule) -> Engine:
        """An engine without gradients, in eval mode. Its shards may be written between two forwards."""
        config = _fixed_config(self.config.deepspeed)
        with self._zero_init(config):
            module = make()
        engine, *_ = deepspeed.initialize(model=module, config=config, mpu=self.parallel, dist_init_required=False)
        engine.eval()
        return engine

    def partitioned(self, make: MakeModule) -> nn.Module:
        """The module in shards, since zero.Init partitions each module as its constructor returns."""
        # Its only use is all-reduce in inference, and it costs a C++ build at the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        with self._zero_init(self.config.deepspeed):
            return make()

    def building(self) -> AbstractContextManager[None]:
        """Around everything that is built: the memory of whole layers goes back to the system."""
        return allocator.returning_memory()

    def _zero_init(self, config: dict[str, Any]) -> Any:
        parallel = self.parallel
        return deepspeed.zero.Init(config_dict_or_path=copy.deepcopy(config), data_parallel_group=parallel.dp_group, mpu=parallel)


def is_supported(precision: str) -> bool:
    """Whether DeepSpeed computes in fp32, bf16 or fp16 on the device that it has found."""
    accelerator = get_accelerator()
    return {"fp32": lambda: True, "bf16": accelerator.is_bf16_supported, "fp16": accelerator.is_fp16_supported}[precision]()


def build_optimizer(module: nn.Module, config: OptimConfig, engine: EngineConfig, frozen: Frozen | None = None) -> torch.optim.Optimizer:
    """AdamW as a client optimizer: torch's fused one where the weights live, DeepSpeed's CPU one under offload.

    The fused one costs least at one rank; DeepSpeed's own "AdamW" is its JIT-built duplicate.
    """
    groups = parameter_groups(module, config, frozen or {})
    numbers: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if engine.offloads_optimizer:
        return build_cpu_adam(groups, **numbers)
    return torch.optim.AdamW(groups, fused=True, **numbers)


def parameter_groups(module: nn.Module, config: OptimConfig, frozen: Frozen) -> list[dict[str, Any]]:
    """Groups by weight decay and by `frozen_steps`, which recipes/engine/update.py reads; what is frozen for ever is in none."""
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        steps = _frozen_steps(name, frozen)
        if steps is not None:
            is_plain = not config.decay_norms_and_biases and len(parameter.ds_shape) < 2
            groups.setdefault((steps, is_plain), []).append(parameter)
    return [
        {"params": groups[steps, is_plain], "weight_decay": 0.0 if is_plain else config.weight_decay, "frozen_steps": steps}
        for steps, is_plain in sorted(groups)
    ]


def _frozen_steps(name: str, frozen: Frozen) -> int | None:
    return next((steps for beginning, steps in frozen.items() if name.startswith(beginning)), 0)


def _fixed_config(trained: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(trained)
    zero = config["zero_optimization"]
    zero.pop("offload_optimizer", None)
    # A persistent or reused parameter keeps its gathered copy, which an update of the shard would leave stale.
    zero["stage3_param_persistence_threshold"] = 0
    zero["stage3_max_reuse_distance"] = 0
    if config.get("fp16", {}).get("enabled"):
        config["fp16"] = {"enabled": True}
    return config
