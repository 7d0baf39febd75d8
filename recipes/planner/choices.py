"""The ways in which a run may be laid out on a cluster, ranked: size of the micro-batch, tensor parallelism, copies of the model, offload
and activation checkpointing. Torch-free."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Any

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, possible_micro_batches, resolve, with_micro_batch
from recipes.errors import ConfigError
from recipes.plan.fit import fit_micro_batch
from recipes.plan.gather import choose_gather
from recipes.plan.links import Cluster
from recipes.planner.run_plan import RunPlan, device_memory

SAME_SECONDS = 1.02
"""Choices whose times differ by less are as good as each other; the one that needs less of everything else comes first."""
MICRO_BATCHES = 3
"""How many sizes of the micro-batch are tried of each layout: the largest that fit."""
Content = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A way to lay out a run."""

    tp_size: int
    shard_size: int | None
    """None: the model is sharded over all data-parallel ranks."""
    offloads: bool
    recomputes: bool

    @property
    def cost(self) -> tuple[int, ...]:
        """What orders layouts that are as fast as each other, the simplest first."""
        return self.offloads, self.tp_size, self.recomputes, self.shard_size is not None

    def changes(self, other: "Layout") -> int:
        """Return how many of the four differ."""
        return sum(own != others for own, others in zip(astuple(self), astuple(other), strict=True))

    def applied_to(self, content: Content) -> Content:
        """Return the ds_config `content` changed to this layout, with the size of the micro-batch left open."""
        changed = copy.deepcopy(content) | {"train_micro_batch_size_per_gpu": "auto"}
        for key in ("gradient_accumulation_steps", "activation_checkpointing"):
            changed.pop(key, None)
        megatron, zero = changed.setdefault("megatron", {}), changed.setdefault("zero_optimization", {})
        megatron.pop("shard_size", None)
        zero.pop("offload_optimizer", None)
        megatron["tensor_model_parallel_size"] = self.tp_size
        if self.shard_size is not None:
            megatron["shard_size"] = self.shard_size
        if self.offloads:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if self.recomputes:
            changed["activation_checkpointing"] = {"enabled": True}
        return changed


def layout_of(config: EngineConfig) -> Layout:
    """Return the layout of a ds_config."""
    batch = config.batch
    shard_size = batch.shard_size if batch.num_replicas > 1 else None
    return Layout(batch.tp_size, shard_size, config.offloads_optimizer, config.recomputes_activations)


def layouts(cluster: Cluster) -> Iterator[Layout]:
    """Yield the layouts that a cluster may have, legal or not."""
    sizes = [size for size in (1, 2, 4, 8) if cluster.gpus % size == 0]
    shards: list[int | None] = [None] + ([1] if cluster.nodes > 1 else [])
    offload = (False,) if cluster.device.is_shared else (False, True)  # a CPU's memory is the host's
    for tp_size, shard, offloads, recomputes in product(sizes, shards, offload, (False, True)):
        yield Layout(tp_size, cluster.gpus // tp_size if shard else None, offloads, recomputes)


def resolved(recipe: Recipe, content: Content, path: str, cluster: Cluster) -> EngineConfig:
    """Return the ds_config `content`, of the file `path`, for a run of `recipe` on all ranks of `cluster`, with the sizes that its memory
    allows. Raises: ConfigError if it is not legal, or a given micro-batch does not fit."""
    memory = device_memory(cluster)
    config = resolve(recipe, content, path, cluster.num_ranks, cluster.gpus)
    return choose_gather(recipe, fit_micro_batch(recipe, config, memory), memory)


def choices(recipe: Recipe, content: Content, path: str, cluster: Cluster, tokens_share: float = 1.0) -> list[RunPlan]:
    """Return the plans of all legal layouts that fit with the usual margin, the fastest first. `content`: of the ds_config `path`, which
    gives everything else. `tokens_share`: see RunPlan."""
    found = [replace(plan, tokens_share=tokens_share) for plan in _fitting(recipe, content, path, cluster)]
    best = min((plan.step.total for plan in found), default=0.0)
    return sorted(found, key=lambda plan: _rank(plan, best))


def _fitting(recipe: Recipe, content: Content, path: str, cluster: Cluster) -> Iterator[RunPlan]:
    for layout in layouts(cluster):
        with suppress(ConfigError):  # not legal for this recipe and cluster
            config = resolved(recipe, layout.applied_to(content), path, cluster)
            yield from (plan for plan in _sizes(RunPlan(recipe, config, cluster)) if plan.fits_well)


def nearest(asked: RunPlan, ranked: list[RunPlan]) -> RunPlan:
    """Return the choice that changes the asked layout least; of several the fastest."""
    layout = layout_of(asked.config)
    return min(ranked, key=lambda plan: (layout_of(plan.config).changes(layout), plan.step.total))


def _rank(plan: RunPlan, best: float) -> tuple[Any, ...]:
    seconds = plan.step.total
    group = 0.0 if seconds <= SAME_SECONDS * best else float(f"{seconds:.3g}")
    return group, layout_of(plan.config).cost, seconds, plan.memory.worst.total


def _sizes(plan: RunPlan) -> Iterator[RunPlan]:
    """Yield the plan with the largest sizes of the micro-batch up to its own."""
    sizes = possible_micro_batches(plan.recipe, plan.config.batch.dp_size)
    for size in [size for size in sizes if size <= plan.config.batch.micro_batch_size][-MICRO_BATCHES:]:
        yield replace(plan, config=with_micro_batch(plan.recipe, plan.config, size))


def smallest_cluster(recipe: Recipe, content: Content, path: str, cluster: Cluster) -> Cluster | None:
    """Return the smallest cluster of the same devices that carries the recipe, if `cluster` does not: more nodes, up to 1024. None if none
    does."""
    nodes = cluster.nodes
    while nodes < 1024:
        nodes *= 2
        larger = replace(cluster, nodes=nodes)
        if next(_fitting(recipe, content, path, larger), None):
            return larger
    return None


def least_memory(recipe: Recipe, content: Content, path: str, cluster: Cluster) -> RunPlan | None:
    """Return the legal layout that needs the least memory, with the smallest micro-batch. None if none is legal."""
    found: list[RunPlan] = []
    for layout in layouts(cluster):
        with suppress(ConfigError):
            config = resolve(recipe, layout.applied_to(content), path, cluster.num_ranks, cluster.gpus)
            smallest = possible_micro_batches(recipe, config.batch.dp_size)[0]
            config = replace(with_micro_batch(recipe, config, smallest), gathers_once=config.batch.shard_size == 1)
            found.append(RunPlan(recipe, config, cluster))
    return min(found, key=lambda plan: plan.memory.worst.total, default=None)
