"""Whether a run fits the memory of a rank's device, and the size of the micro-batch if the ds_config leaves it open. Torch-free arithmetic;
the memory itself is read in recipes/cluster/device_memory.py.

What the libraries take for themselves (CUDA's context, workspaces, NCCL's buffers) is not estimated: MEMORY_SHARE leaves room for it.
"""

from bisect import bisect_right
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, possible_micro_batches, with_micro_batch
from recipes.errors import ConfigError
from recipes.plan.memory import GIB, PhaseMemory, memory_plan

MEMORY_SHARE = 0.85
"""Share of the device's memory that an automatic micro-batch may fill by the estimate."""
MOST_POSITIONS = 2**16
"""Most positions of an automatic micro-batch on a GPU, 128 x 512 tokens or 332 images of 197. Its matrix products reach their full rate far
below; beyond, a larger micro-batch takes memory only."""


class DeviceMemory(NamedTuple):
    """The memory that one rank may fill: of its GPU, or its part of the host's memory."""

    size: int
    """Bytes."""
    on_gpu: bool
    is_assumed: bool = False
    """True for ranks that a dry run imagines."""


def memory_need(recipe: Recipe, config: EngineConfig, on_gpu: bool, micro_batch_size: int | None = None) -> PhaseMemory:
    """Return what a rank needs on its device in the phase that needs most. `micro_batch_size` None: that of `config`."""
    return memory_plan(recipe, config, on_gpu, micro_batch_size).worst


def fit_micro_batch(recipe: Recipe, config: EngineConfig, memory: DeviceMemory) -> EngineConfig:
    """Return `config` with the size of its micro-batch checked against `memory`, or chosen if the ds_config leaves it open.

    On a GPU the choice is the largest possible size that fits MEMORY_SHARE of the memory and has at most MOST_POSITIONS positions. On a
    CPU it stays at most 16 (LARGEST_AUTO_MICRO_BATCH), since larger ones gain nothing there. If none fits, it is the smallest possible
    size: the estimate ends no run whose ds_config leaves the size open.

    Raises: ConfigError if the ds_config has a number whose estimate is above the whole memory.
    """
    sizes = possible_micro_batches(recipe, config.batch.dp_size)

    @cache
    def need(size: int) -> int:
        return memory_need(recipe, config, memory.on_gpu, size).total

    fitting = sizes[: bisect_right(sizes, memory.size, key=need)]  # larger ones need more
    largest = max(fitting, default=sizes[0])
    if config.has_auto_micro_batch:
        most = _most_samples(recipe) if memory.on_gpu else config.batch.micro_batch_size
        chosen = sizes[: bisect_right(sizes, MEMORY_SHARE * memory.size, key=need)]
        fits = with_micro_batch(recipe, config, max((size for size in chosen if size <= most), default=sizes[0]))
        return replace(fits, largest_micro_batch=largest)
    if need(config.batch.micro_batch_size) > memory.size:
        raise ConfigError(_too_large(recipe, config, memory, fitting))
    return replace(config, largest_micro_batch=largest)


def _most_samples(recipe: Recipe) -> int:
    frontend = recipe.frontend
    length = frontend.tokens_per_sample(recipe.data.longest_sample) + frontend.num_prefix_tokens
    return max(1, MOST_POSITIONS // max(1, length))


def _too_large(recipe: Recipe, config: EngineConfig, memory: DeviceMemory, fitting: list[int]) -> str:
    micro, need = config.batch.micro_batch_size, memory_need(recipe, config, memory.on_gpu)
    remedy = f'set it to {max(fitting)} or "auto"' if fitting else _no_size_fits(config, memory)
    return (
        f"{config.path}: train_micro_batch_size_per_gpu {micro} needs {need.in_words} per rank by estimate, and a rank has "
        f"{memory.size / GIB:.2f} GiB; {remedy}"
    )


def _no_size_fits(config: EngineConfig, memory: DeviceMemory) -> str:
    ways = ["more ranks", "tensor parallelism"]
    if not config.recomputes_activations:
        ways.append('"activation_checkpointing": {"enabled": true}')
    if memory.on_gpu and not config.offloads_optimizer:
        ways.append("zero3_offload_cpu")
    return f"no size fits: take {', '.join(ways)} or shorter samples"


def memory_line(recipe: Recipe, config: EngineConfig, memory: DeviceMemory | None) -> str:
    """Return the line that a dry run prints about the memory of a rank. `memory` None: it is not known, and the ranks have GPUs."""
    plan = memory_plan(recipe, config, memory is None or memory.on_gpu)
    need, host = plan.worst, plan.host_total
    aside = f", and {host / GIB:.2f} GiB of host memory" if host else ""
    if memory is None:
        return f"memory per rank, estimated: {need.in_words}{aside}; that of the device is not known"
    where = f"{memory.size / GIB:.1f} GiB{' of a GPU that is assumed' if memory.is_assumed else ''}"
    warning = f"; {_no_size_fits(config, memory)}" if need.total > memory.size else ""
    return f"memory per rank, estimated: {need.in_words}, of {where}{aside}{warning}"
