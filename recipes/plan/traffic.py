"""What one update sends: every collective of a rank, with its bytes. Torch-free arithmetic, which follows recipes/engine/ and DeepSpeed's
ZeRO-3. benchmarks/plan_traffic.py compares it with the bytes that the process groups get. Collectives of a few numbers (norms, counts) are
left out. How long they take: recipes/plan/links.py."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from model.shapes import ParameterShape
from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.objective_config import MicroBatchShape
from recipes.plan.activations import VALUE_BYTES, micro_batch_shape
from recipes.plan.links import Collective
from recipes.plan.size import (
    padded_elements,
    persistent_parameters,
    shard_elements,
    student_parameters,
    teacher_elements,
    trained_parameters,
    whole_elements,
)

BUCKET_ELEMENTS = 5 * 10**8
PREFETCHED_ELEMENTS = 5 * 10**7
REUSE_ELEMENTS = 10**9
"""Defaults of DeepSpeed 0.19 (runtime/zero/config.py), in elements: gradients that are reduced together, what is gathered ahead of its use,
and the distance between two uses up to which a weight stays gathered."""


class Traffic(NamedTuple):
    """Equal collectives of one update: what for, how many, and one of them."""

    name: str
    times: float
    each: Collective

    @property
    def num_bytes(self) -> float:
        """Bytes of the whole tensors of all of them together."""
        return self.times * self.each.num_bytes


def update_traffic(recipe: Recipe, config: EngineConfig, length: int | None = None) -> list[Traffic]:
    """Return the collectives of one update. `length`: that of every sample, as FrontendConfig.tokens_per_sample takes it; None: the longest
    that the recipe's data can have."""
    positions = micro_batch_shape(recipe, config.batch.micro_batch_size, length)
    found = (*_weights(recipe, config), *_gradients(recipe, config), *_activations(recipe, config, positions))
    return [traffic for traffic in found if traffic.each.num_ranks > 1 and traffic.num_bytes]


def stays_gathered(recipe: Recipe, config: EngineConfig) -> int:
    """Return how many elements of the student DeepSpeed keeps gathered from the forward to the backward: the last ones, up to
    stage3_max_reuse_distance before the end of the forward. In a bounded memory the others are gathered twice."""
    kept, distance = 0, config.deepspeed["zero_optimization"].get("stage3_max_reuse_distance", REUSE_ELEMENTS)
    for size in reversed(module_elements(recipe, config.batch)):
        if kept >= distance:
            break
        kept += size
    return kept


def elements_ahead(config: EngineConfig) -> int:
    """Return how many elements DeepSpeed gathers ahead of their use."""
    return int(config.deepspeed["zero_optimization"].get("stage3_prefetch_bucket_size", PREFETCHED_ELEMENTS))


def module_elements(recipe: Recipe, batch: BatchPlan) -> list[int]:
    """Return the elements that each part of the student has on a tensor-parallel rank, in the order of the forward: the front-end, each
    block, the final norm and the head."""
    return _module_elements(student_parameters(recipe), batch.tp_size)


@lru_cache(maxsize=256)
def _module_elements(shapes: tuple[ParameterShape, ...], tp_size: int) -> list[int]:
    sizes = dict[str, int]()
    for shape in shapes:
        depth = 4 if shape.name.startswith("trunk.encoder.layers.") else 2
        part = ".".join(shape.name.split(".")[:depth])
        sizes[part] = sizes.get(part, 0) + shape.numel(tp_size)
    return list(sizes.values())


def _weights(recipe: Recipe, config: EngineConfig) -> Iterator[Traffic]:
    batch, zero, value = config.batch, config.deepspeed["zero_optimization"], VALUE_BYTES[config.precision]
    shards, micro_batches = batch.shard_size, batch.accumulation_steps
    student, teachers = student_parameters(recipe), teacher_elements(recipe, batch)
    kept = persistent_parameters(recipe, config)
    gathered = padded_elements(student, batch) - padded_elements(kept, batch)
    again = max(0, whole_elements(student, batch) - stays_gathered(recipe, config)) * recipe.objective.trains("trunk")
    kind = "all_reduce" if zero.get("stage3_use_all_reduce_for_fetch_params", False) else "all_gather"
    # the first module is gathered when it is reached, the rest ahead of its use
    modules, ahead = module_elements(recipe, batch), elements_ahead(config)
    count = 1 + (math.ceil((gathered + again - min(gathered, modules[0])) / ahead) if ahead else 2 * (len(modules) - 1))
    yield Traffic(
        "weights of the student", micro_batches * count, Collective(kind, (gathered + again) * value / count, shards, batch.tp_size)
    )
    if kept:
        yield Traffic(
            "small weights after the step",
            len(kept),
            Collective("all_gather", padded_elements(kept, batch) * value / len(kept), shards, batch.tp_size),
        )
    if config.gathers_once:
        yield Traffic("weights of the teacher", 1, Collective("all_gather", teachers * value, shards, batch.tp_size))
    elif teachers:
        each = Collective(kind, teachers * value / len(modules), shards, batch.tp_size)
        yield Traffic("weights of the teacher", micro_batches * len(modules), each)


def _gradients(recipe: Recipe, config: EngineConfig) -> Iterator[Traffic]:
    batch, zero, value = config.batch, config.deepspeed["zero_optimization"], VALUE_BYTES[config.precision]
    trained = trained_parameters(recipe)
    is_scattered = zero.get("reduce_scatter", True)
    elements = padded_elements(trained, batch) if is_scattered else whole_elements(trained, batch)
    count = num_buckets([shape.numel(batch.tp_size) for shape in trained], int(zero.get("reduce_bucket_size", BUCKET_ELEMENTS)))
    each = Collective("reduce_scatter" if is_scattered else "all_reduce", elements * value / max(1, count), batch.shard_size, batch.tp_size)
    yield Traffic("gradients", batch.accumulation_steps * count, each)
    shard = shard_elements(trained, batch)
    yield Traffic(
        "gradients of the copies of the model", 1, Collective("all_reduce", 4 * shard, batch.num_replicas, batch.shard_size * batch.tp_size)
    )
    replicated = shard_elements([shape for shape in trained if shape.split_dim is None], batch)
    yield Traffic("gradients of replicated weights", 1, Collective("broadcast", 4 * replicated, batch.tp_size))


def num_buckets(sizes: Sequence[int], bucket: int) -> int:
    """Return how many reductions the gradients of parameters take, which become complete from the last to the first. A bucket is reduced
    when the next gradient does not fit in. `sizes` and `bucket`: elements."""
    count, filled = 0, 0
    for size in reversed(sizes):
        if filled and filled + size > bucket:
            count, filled = count + 1, 0
        filled += size
    return count + (filled > 0)


def _activations(recipe: Recipe, config: EngineConfig, positions: MicroBatchShape) -> Iterator[Traffic]:
    """Yield the sums of tensor parallelism: of each block two in a forward, two in a backward, and two more if it is computed again; and
    one of the embedded tokens."""
    batch, model, value = config.batch, recipe.model, VALUE_BYTES[config.precision]
    each = Collective("all_reduce", positions.total * model.hidden_size * value, batch.tp_size)
    share = recipe.objective.mean_block_share(recipe, positions)
    embeds, forwards = bool(recipe.frontend.split_sizes()), 1 + config.recomputes_activations
    trains = recipe.objective.trains("trunk")
    # the last block computes its output at a share of the positions, and its keys and values at all
    forward = 2 * (model.num_layers - 1) + 2 * share
    backward = 2 * (model.num_layers - 1) + 1 + share
    student = embeds + (forwards * forward + backward if trains else forward)
    teachers = recipe.objective.num_teachers * (embeds + 2 * model.num_layers)
    yield Traffic("activations of tensor parallelism", batch.accumulation_steps * (student + teachers), each)
