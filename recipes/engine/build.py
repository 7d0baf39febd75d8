"""Recipe + ds_config -> the two DeepSpeed engines: student with optimizer, teacher without, and the EMA between them.

Nothing here runs a step; the objective on these engines is recipes/objectives/data2vec.py.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import nn

from model.config import Shares
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.student import Student
from model.teacher import ShadowWeights, Teacher
from recipes.config import OptimConfig, Recipe
from recipes.ds_config import EngineConfig
from recipes.engine import allocator, shards
from recipes.engine.cpu_adam import build_cpu_adam
from recipes.modalities.registry import MODALITIES

OptimizerBuilder = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass
class Engines:
    """Student and teacher of one run, on this rank."""

    student: deepspeed.DeepSpeedEngine
    teacher: deepspeed.DeepSpeedEngine
    shadow: ShadowWeights
    stream: DropoutStream
    parallel: Parallel

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.student.device)


def build_engines(recipe: Recipe, config: EngineConfig, parallel: Parallel, optimizer: OptimizerBuilder | None = None) -> Engines:
    """Build both models partitioned from the first tensor on, wrap them, and set teacher := student. `optimizer` replaces
    the recipe's."""
    stream = DropoutStream(recipe.run.seed, parallel.dp_rank, parallel.tp_rank)
    with allocator.returning_memory():
        student = build_student(recipe, config, parallel, stream)
        student_engine, *_ = deepspeed.initialize(
            model=student,
            optimizer=optimizer(student) if optimizer else build_optimizer(student, recipe.optim, config),
            config=copy.deepcopy(config.deepspeed),
            mpu=parallel,
            dist_init_required=False,
        )
        teacher_engine = _build_teacher(recipe, _teacher_config(config.deepspeed), parallel)
    shadow = build_shadow(student_engine, teacher_engine, recipe.teacher.shares)
    return Engines(student_engine, teacher_engine, shadow, stream, parallel)


def build_student(recipe: Recipe, config: EngineConfig, parallel: Parallel, stream: DropoutStream) -> Student:
    """The student in shards: each rank holds its part, plus one layer while it is being made, since zero.Init partitions
    each module as its constructor returns."""
    # Its only use is all-reduce in inference, and it costs a C++ build at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    frontend = MODALITIES[recipe.modality].build_frontend(recipe)
    with _partitioned(config.deepspeed, parallel):
        return Student(recipe.model, frontend, Init(recipe.run.seed), parallel, stream)


def _build_teacher(recipe: Recipe, config: dict[str, Any], parallel: Parallel) -> deepspeed.DeepSpeedEngine:
    frontend = MODALITIES[recipe.modality].build_frontend(recipe)
    with _partitioned(config, parallel):
        teacher = Teacher(recipe.model, recipe.teacher, frontend, Init(recipe.run.seed), parallel)
    engine, *_ = deepspeed.initialize(model=teacher, config=config, mpu=parallel, dist_init_required=False)
    engine.eval()
    return engine


def build_shadow(student: deepspeed.DeepSpeedEngine, teacher: deepspeed.DeepSpeedEngine, shares: Shares) -> ShadowWeights:
    """The EMA over the trunk's shards of two engines."""
    masters = {n: shards.master_shard(p) for n, p in shards.named_parameters(student) if n.startswith("trunk.")}
    computed = {n: shards.compute_shard(p) for n, p in shards.named_parameters(teacher)}
    copied = {f"trunk.frontend.{n}" for n in student.module.trunk.frontend.shared_parameters(shares)}
    return ShadowWeights(masters, computed, copied)


def build_optimizer(student: nn.Module, config: OptimConfig, engine: EngineConfig) -> torch.optim.Optimizer:
    """AdamW as a client optimizer: torch's fused one where the weights live, DeepSpeed's CPU one under offload.

    The fused one costs least at one rank; DeepSpeed's own "AdamW" is its JIT-built twin.
    """
    parameters = list(student.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": config.weight_decay}]
    if not config.decay_norms_and_biases:
        plain = [p for p in parameters if len(p.ds_shape) < 2]
        matrices = [p for p in parameters if len(p.ds_shape) >= 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    numbers: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if engine.offloads_optimizer:
        return build_cpu_adam(groups, **numbers)
    return torch.optim.AdamW(groups, fused=True, **numbers)


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    """The rate of the next step, in every parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def _partitioned(config: dict[str, Any], parallel: Parallel) -> deepspeed.zero.Init:
    return deepspeed.zero.Init(config_dict_or_path=copy.deepcopy(config), data_parallel_group=parallel.dp_group, mpu=parallel)


def _teacher_config(student: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(student)
    zero = config["zero_optimization"]
    zero.pop("offload_optimizer", None)
    # A persistent or reused parameter keeps its gathered copy, which an update of the shard would leave stale.
    zero["stage3_param_persistence_threshold"] = 0
    zero["stage3_max_reuse_distance"] = 0
    if config.get("fp16", {}).get("enabled"):
        config["fp16"] = {"enabled": True}
    return config
