"""The memory of a rank, part by part, while a run is built, trained and saved. Torch-free arithmetic, which follows recipes/engine/ and
DeepSpeed's ZeRO-3. benchmarks/plan_memory.py compares it with what torch's allocator holds.

What the libraries take for themselves (CUDA's context, workspaces, NCCL's buffers, Python) is not counted.
"""

from collections.abc import Mapping
from typing import NamedTuple

from model.activations import Storage
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.plan.activations import VALUE_BYTES, Parts, activation_bytes
from recipes.plan.size import (
    padded_elements,
    persistent_parameters,
    shard_elements,
    state_bytes,
    student_parameters,
    teacher_elements,
    trained_parameters,
    trunk_parameters,
    whole_elements,
)
from recipes.plan.traffic import BUCKET_ELEMENTS, elements_ahead, module_elements, stays_gathered

GIB = 2**30
NORM = "a gradient in float64, for its norm"
HOST_STATES = ("master weights", "gradients", "gradients of the host's optimizer", "moments", "EMA shadow")
"""States that are in host memory if the optimizer is offloaded."""


Groups = dict[str, Parts]
"""Group of parts (states, buffers, activations, checkpoint) -> name of a part -> its bytes."""


class PhaseMemory(NamedTuple):
    """Bytes of a rank at the worst moment of a phase: on its device and on the host. A rank on the CPU has all on its device."""

    device: Groups
    host: Groups

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return _total(self.device)

    @property
    def host_total(self) -> int:
        """Bytes on the host."""
        return _total(self.host)

    @property
    def in_words(self) -> str:
        """The groups on the device and their sum as text, in GiB."""
        sizes = [f"{name} {sum(parts.values()) / GIB:.2f}" for name, parts in self.device.items()]
        return f"{' + '.join(sizes)} = {self.total / GIB:.2f} GiB"


class MemoryPlan(NamedTuple):
    """The memory of a rank in the three phases of a run."""

    build: PhaseMemory
    train: PhaseMemory
    save: PhaseMemory

    @property
    def worst(self) -> PhaseMemory:
        """The phase that needs most on the device."""
        return max(self, key=lambda phase: phase.total)

    @property
    def host_total(self) -> int:
        """Bytes on the host in the phase that needs most there."""
        return max(phase.host_total for phase in self)


def memory_plan(
    recipe: Recipe, config: EngineConfig, on_gpu: bool, micro_batch_size: int | None = None, *, length: int | None = None
) -> MemoryPlan:
    """Return what a rank needs. `micro_batch_size` None: that of `config`. `length`: that of every sample, as FrontendConfig's
    tokens_per_sample takes it; None: the longest that the recipe's data can have."""
    size = config.batch.micro_batch_size if micro_batch_size is None else micro_batch_size
    states, buffers = state_bytes(recipe, config), _buffers(recipe, config)
    storage = Storage(VALUE_BYTES[config.precision], on_gpu, config.batch.tp_size)
    activations, working = _working(recipe, config, storage, size, length)
    copied = {"host copy": 4.0 * saved_elements(recipe, config)}
    phases: tuple[Groups, ...] = (
        _building(recipe, config, states, buffers),
        {"states": states, "buffers": buffers | working, "activations": activations},
        {"states": states, "buffers": buffers, "checkpoint": copied},
    )
    return MemoryPlan(*(_placed(phase, on_gpu, config.offloads_optimizer) for phase in phases))


def _placed(groups: Mapping[str, Mapping[str, float]], on_gpu: bool, offloads: bool) -> PhaseMemory:
    """Return the parts of a phase by the place where they are."""
    device, host = Groups(), Groups()
    for group, parts in groups.items():
        for name, size in parts.items():
            is_on_host = on_gpu and (group == "checkpoint" or (offloads and name in (*HOST_STATES, NORM)))
            if size:
                (host if is_on_host else device).setdefault(group, {})[name] = size
    return PhaseMemory(device, host)


def _total(groups: Groups) -> int:
    return round(sum(sum(parts.values()) for parts in groups.values()))


def saved_elements(recipe: Recipe, config: EngineConfig) -> int:
    """Return the numbers that a rank copies to host memory for a checkpoint: weights, moments and what follows the student."""
    student, trained = (shard_elements(shapes, config.batch) for shapes in (student_parameters(recipe), trained_parameters(recipe)))
    return student + 2 * trained + recipe.objective.num_teachers * shard_elements(trunk_parameters(recipe), config.batch)


def checkpoint_bytes(recipe: Recipe) -> int:
    """Return the bytes of a checkpoint on the disk, without the small files: float32 numbers of the whole model."""
    networks = student_parameters(recipe), trained_parameters(recipe), trunk_parameters(recipe)
    student, trained, trunk = (sum(shape.numel() for shape in shapes) for shapes in networks)
    return 4 * (student + 2 * trained + recipe.objective.num_teachers * trunk)


def _buffers(recipe: Recipe, config: EngineConfig) -> Parts:
    """Return what is allocated once and stays. A single rank gathers and reduces nothing."""
    batch, value = config.batch, VALUE_BYTES[config.precision]
    if batch.shard_size == 1:
        return {}
    return {
        "bucket of gradients": _bucket_bytes(config),
        "small whole weights": whole_elements(persistent_parameters(recipe, config), batch) * value,
        "whole teacher": teacher_elements(recipe, batch) * value * bool(config.gathers_once),
    }


def _bucket_bytes(config: EngineConfig) -> int:
    zero = config.deepspeed["zero_optimization"]
    elements = zero.get("reduce_bucket_size", BUCKET_ELEMENTS) if zero.get("contiguous_gradients", True) else 0
    return elements * VALUE_BYTES[config.precision]


def _working(recipe: Recipe, config: EngineConfig, storage: Storage, micro_batch_size: int, length: int | None) -> tuple[Parts, Parts]:
    """Return (activations, buffers beside those that stay) at the worst moment of an update. The moments are: the first gathers of weights,
    the end of the student's forward, the forward of the teacher, the first block of the backward, and the end of the backward."""
    batch, value = config.batch, storage.value_bytes
    found = activation_bytes(recipe, storage, micro_batch_size, recomputes=config.recomputes_activations, length=length)
    block = {"gradients of a block": max(module_elements(recipe, batch)[1:-1], default=0) * float(value)}
    norm = {NORM: 8.0 * config.offloads_optimizer * max(shard_elements([shape], batch) for shape in student_parameters(recipe))}
    if batch.shard_size == 1:
        moments: list[tuple[Parts, Parts]] = [
            (found.kept | found.in_forward, {}),
            (found.kept | found.further, {}),
            (found.kept | found.backward, block),
            (found.later, norm),
        ]
        return max(moments, key=_needed)
    teacher = teacher_elements(recipe, batch) * value * bool(config.gathers_once)
    first, sent = _first_gather(recipe, config) * value, _reduced_elements(recipe, config) * value
    gathered, arriving = {"gathered weights": float(_gathered_elements(recipe, config) * value)}, {"arriving teacher": float(teacher)}
    # A gather has a shard, what arrives, and that in its order; an all-reduce happens in place. gloo gathers and reduces into copies.
    in_place = config.deepspeed["zero_optimization"].get("stage3_use_all_reduce_for_fetch_params", False)
    orders, copied = (1.0, teacher) if in_place else (2 + 1 / batch.shard_size, teacher + first)
    gathering, waiting, sending = ({"copies of gloo": 0.0 if storage.on_gpu else float(size)} for size in (copied, teacher, sent))
    moments = [
        ({}, arriving | {"first weights, as they arrive and in their order": first * orders} | gathering),
        (found.kept | found.in_forward, gathered | arriving | waiting),
        (found.kept | found.further, gathered | {"weights of the teacher's next layers": _teacher_ahead(recipe, config) * float(value)}),
        (found.kept | found.backward, gathered | block),
        (found.later, gathered | {"gradients that are sent": float(sent)} | sending),
        (found.later, gathered | norm),
    ]
    return max(moments, key=_needed)


def _needed(moment: tuple[Parts, Parts]) -> float:
    return sum(sum(parts.values()) for parts in moment)


def _first_gather(recipe: Recipe, config: EngineConfig) -> int:
    """Return the elements that DeepSpeed gathers ahead when a forward begins."""
    found, small = 0, set(persistent_parameters(recipe, config))
    for shape in student_parameters(recipe):
        if found and found >= elements_ahead(config):
            break
        found += shape.numel(config.batch.tp_size) * (shape not in small)
    return found


def _teacher_ahead(recipe: Recipe, config: EngineConfig) -> int:
    """Return the elements of a teacher that is gathered layer by layer: a block, and what is gathered ahead of its use."""
    trunk, block = whole_elements(trunk_parameters(recipe), config.batch), max(module_elements(recipe, config.batch)[1:-1], default=0)
    return 0 if config.gathers_once else recipe.objective.num_teachers * min(trunk, block + elements_ahead(config))


def _gathered_elements(recipe: Recipe, config: EngineConfig) -> int:
    small = whole_elements(persistent_parameters(recipe, config), config.batch)
    return max(0, stays_gathered(recipe, config) - small)


def _reduced_elements(recipe: Recipe, config: EngineConfig) -> int:
    zero, trained = config.deepspeed["zero_optimization"], trained_parameters(recipe)
    bucket = zero.get("reduce_bucket_size", BUCKET_ELEMENTS)
    largest = max((shape.numel(config.batch.tp_size) for shape in trained), default=0)
    return max(largest, min(bucket, padded_elements(trained, config.batch)))


def _building(recipe: Recipe, config: EngineConfig, states: Parts, buffers: Parts) -> Groups:
    """Return what is there when all networks are built, or before, when the optimizer of the student is ready. That moment has the float32
    weights twice where the forward's own serve as such afterwards, the bucket also where a single rank releases it, and the largest
    parameter gathered twice. The first step makes the moments."""
    batch, value = config.batch, VALUE_BYTES[config.precision]
    trained = shard_elements(trained_parameters(recipe), batch)
    largest = max(shape.numel(batch.tp_size) for shape in student_parameters(recipe))
    student = {name: states[name] for name in ("parameters", "gradients", "gradients of the host's optimizer")}
    ready: Groups = {
        "states": student | {"master weights": 4.0 * trained},
        "buffers": {"bucket of gradients": _bucket_bytes(config), "largest parameter, gathered": 2.0 * largest * value},
    }
    built: Groups = {
        "states": {name: size for name, size in states.items() if name != "moments"},
        "buffers": {name: size for name, size in buffers.items() if name != "small whole weights"},
    }
    return max(ready, built, key=_total)
