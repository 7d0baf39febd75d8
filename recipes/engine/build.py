"""Builds the DeepSpeed ZeRO-3 engine of any torch module, partitioned from the first tensor on, with an optimizer or without. Independent
of the objective. The steps of an update are in recipes/engine/update.py."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from model.dropout import DropoutStream
from model.init import Init
from model.layers import Block
from model.parallel import Parallel
from model.products import use_products
from recipes.config import OptimConfig
from recipes.ds_config import EngineConfig
from recipes.engine import allocator, overrides
from recipes.engine.cpu_adam import build_cpu_adam
from recipes.engine.gathered import Gathering, LayerGathering, WholeGathering
from recipes.engine.leaf_modules import check_leaf_modules, set_leaf_modules
from recipes.engine.partition import OwnParts

Engine: TypeAlias = deepspeed.DeepSpeedEngine
MakeModule = Callable[[], nn.Module]
OptimizerBuilder = Callable[[nn.Module], torch.optim.Optimizer]
Frozen = Mapping[str, int | None]
"""Prefix of parameter names -> number of optimizer steps for which these parameters are not trained; None: always. While they are
frozen, the forward must run them under no_grad."""

PRECISIONS = ("bf16", "fp16", "fp32")

HEAD, FRONTEND = "head.", "trunk.frontend."
BLOCKS = ("trunk.encoder.layers.", "trunk.frontend.relative_bias.")
"""Prefixes of the names of parameters that belong to the block whose index, from 0, follows. Without an index, all blocks share them."""


@dataclass(frozen=True)
class EngineBuilder:
    """Builds the DeepSpeed engines of a run. The settings are shared by all of them."""

    config: EngineConfig
    optim: OptimConfig
    parallel: Parallel
    stream: DropoutStream
    """Random numbers of the trained module's dropout. The training loop sets their update and micro-batch."""
    optimizer: OptimizerBuilder | None = None
    """A function that builds the optimizer; None: the recipe's AdamW."""
    alive: Callable[[], Any] = lambda: None
    """Called after each parameter of a network that is built, so that a long start is not taken for a hang."""

    def init(self, seed: int) -> Init:
        """Return the initial values of a network that this builder partitions: those of `seed`. Each rank draws only the part of each
        parameter that it keeps."""
        return Init(seed, share=(self.parallel.shard_rank, self.parallel.shard_size))

    def trained(self, make: MakeModule, frozen: Frozen | None = None) -> Engine:
        """Build the engine whose module is trained, with its optimizer. `make` returns the module. `frozen`: prefix of parameter names
        -> number of first steps in which they are not trained (None: they are never trained). Each rank holds its shard, plus one whole
        layer during construction."""
        module = self.partitioned(make)
        freeze = frozen or {}
        steps = {name: math.inf if (n := _frozen_steps(name, freeze)) is None else n for name, _ in module.named_parameters()}
        for name, parameter in module.named_parameters():
            if steps[name] == math.inf:
                parameter.requires_grad_(False)
        use_products(module, self.config.products)
        for part in module.modules():
            if isinstance(part, Block):
                part.recomputes = self.config.recomputes_activations
        set_leaf_modules(module, self.config.leaf_modules, steps)
        optimizer = self.optimizer(module) if self.optimizer else build_optimizer(module, self.optim, self.config, freeze)
        engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=_for_deepspeed(self.config.deepspeed),
            mpu=self.parallel,
            dist_init_required=False,
        )
        check_leaf_modules(module, steps)
        overrides.avoid_copies(engine, self.parallel)
        return engine

    def fixed(self, make: MakeModule) -> tuple[Engine, Gathering]:
        """Build an engine that is not trained, in eval mode, of the module that `make` returns. Its shards may be written between two
        forwards; the second result must be notified of that."""
        config = _fixed_config(self.config.deepspeed)
        module = self._partitioned(make, config)
        use_products(module, self.config.products)
        set_leaf_modules(module, self.config.leaf_modules, {}, may_lack=True)
        engine, *_ = deepspeed.initialize(model=module, config=_for_deepspeed(config), mpu=self.parallel, dist_init_required=False)
        engine.eval()
        if self.config.gathers_once:
            return engine, WholeGathering(engine, self.parallel.second_shard_group())
        return engine, LayerGathering(engine)

    def partitioned(self, make: MakeModule) -> nn.Module:
        """Call `make` and return its module, of which each rank holds only shards: DeepSpeed's zero.Init partitions each submodule when
        its constructor returns. Nothing is sent: each rank keeps its part of the values that it has written."""
        return self._partitioned(make, self.config.deepspeed)

    def _partitioned(self, make: MakeModule, config: dict[str, Any]) -> nn.Module:
        # This op is used only for all-reduce in inference, and it would cost a C++ build at the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        parallel = self.parallel
        settings: dict[str, Any] = {"data_parallel_group": parallel.shard_group, "mpu": parallel}
        with OwnParts(self.alive, config_dict_or_path=_for_deepspeed(config), **settings):
            module = make()
        if not config["zero_optimization"].get("stage3_use_all_reduce_for_fetch_params", False):
            overrides.gather_in_one_copy(module.parameters())
        return module

    def building(self) -> AbstractContextManager[None]:
        """Return a context for building engines. In it, when a layer has been partitioned, the memory of the whole layer is returned to
        the system."""
        return allocator.returning_memory()


def is_supported(precision: str) -> bool:
    """True if DeepSpeed can compute in `precision` ("bf16", "fp16" or "fp32") on the device that it has found."""
    accelerator = get_accelerator()
    return {"fp32": lambda: True, "bf16": accelerator.is_bf16_supported, "fp16": accelerator.is_fp16_supported}[precision]()


def build_optimizer(module: nn.Module, config: OptimConfig, engine: EngineConfig, frozen: Frozen | None = None) -> torch.optim.Optimizer:
    """Build AdamW over the parameters of `module`: torch's fused AdamW, or DeepSpeed's CPU Adam if the ds_config offloads the optimizer.
    `frozen`: prefix of parameter names -> number of first steps in which they are not trained (None: they are never trained).

    The fused AdamW costs least at one rank. DeepSpeed's own "AdamW" is a JIT-built duplicate of it.
    """
    groups = parameter_groups(module, config, frozen or {})
    numbers: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if engine.offloads_optimizer:
        return build_cpu_adam(groups, **numbers)
    return torch.optim.AdamW(groups, fused=True, **numbers)


def parameter_groups(module: nn.Module, config: OptimConfig, frozen: Frozen) -> list[dict[str, Any]]:
    """Return the optimizer's groups: parameters with the same weight decay, the same `lr_scale`, a factor on the learning rate, and the
    same `frozen_steps`, the number of first steps in which they are not trained. `frozen`: prefix of names -> that number; None: never
    trained, so in no group."""
    groups: dict[tuple[int, bool, float], list[nn.Parameter]] = {}
    scales = learning_rate_scales([name for name, _ in module.named_parameters()], config)
    for name, parameter in module.named_parameters():
        steps = _frozen_steps(name, frozen)
        if steps is not None:
            is_plain = not config.decay_norms_and_biases and len(parameter.ds_shape) < 2
            groups.setdefault((steps, is_plain, scales[name]), []).append(parameter)
    return [
        {
            "params": groups[steps, is_plain, scale],
            "weight_decay": 0.0 if is_plain else config.weight_decay,
            "frozen_steps": steps,
            "lr_scale": scale,
        }
        for steps, is_plain, scale in sorted(groups)
    ]


def learning_rate_scales(names: Sequence[str], config: OptimConfig) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter in `names`, which are all names of a module.

    A block i of L, counted from 1, has layer_decay^(L + 1 - i). The front-end has layer_decay^(L + 1), but a table of relative positions
    has the factor of its block, or 1 if all blocks share it. The head has head_lr_scale, and everything else 1.
    Source: BEiT optim_factory.py, get_num_layer_for_vit and LayerDecayValueAssigner.
    """
    numbers = [_block_number(name) for name in names]
    top = max((number for number in numbers if number is not None), default=0) + 1
    others = [config.head_lr_scale if name.startswith(HEAD) else 1.0 for name in names]
    return {
        name: other if number is None else config.layer_decay ** (top - number)
        for name, number, other in zip(names, numbers, others, strict=True)
    }


def _block_number(name: str) -> int | None:
    """Return the number of the block, from 1, to which a parameter belongs; 0 if it embeds the input, None if it is in neither."""
    for prefix in BLOCKS:
        if name.startswith(prefix):
            index = name.removeprefix(prefix).partition(".")[0]
            return int(index) + 1 if index.isdigit() else None
    return 0 if name.startswith(FRONTEND) else None


def _frozen_steps(name: str, frozen: Frozen) -> int | None:
    return next((steps for prefix, steps in frozen.items() if name.startswith(prefix)), 0)


def _fixed_config(trained: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(trained)
    zero = config["zero_optimization"]
    zero.pop("offload_optimizer", None)
    # A persistent or reused parameter keeps its gathered copy, which would be stale after a write into the shard.
    zero["stage3_param_persistence_threshold"] = 0
    zero["stage3_max_reuse_distance"] = 0
    if config.get("fp16", {}).get("enabled"):
        config["fp16"] = {"enabled": True}
    return config


def _for_deepspeed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` without leaf_module, which recipes/engine/leaf_modules.py reads. DeepSpeed changes what it is given."""
    zero = {key: value for key, value in config["zero_optimization"].items() if key != "leaf_module"}
    return copy.deepcopy(config | {"zero_optimization": zero})
