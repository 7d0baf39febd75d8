"""Whether a teacher is gathered once per update or layer by layer, by the memory that it takes. Torch-free arithmetic. The gathering itself
is in recipes/engine/gathered.py."""

from dataclasses import replace

from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.errors import ConfigError
from recipes.plan.activations import VALUE_BYTES
from recipes.plan.fit import DeviceMemory, memory_need
from recipes.plan.memory import GIB
from recipes.plan.size import teacher_elements

FREE_SHARE = 0.1
"""Share of a rank's free memory that the weights of a whole teacher may take if the ds_config leaves the choice open."""


def gather_bytes(recipe: Recipe, config: EngineConfig) -> int:
    """Return what a rank needs to have the whole teacher: its weights, and as much again while the shards arrive in another order. A rank
    that has all shards needs nothing more."""
    weights = teacher_elements(recipe, config.batch) * VALUE_BYTES[config.precision]
    return 2 * weights if config.batch.shard_size > 1 else 0


def choose_gather(recipe: Recipe, config: EngineConfig, memory: DeviceMemory | None) -> EngineConfig:
    """Return `config` with the choice made, if the ds_config leaves it open (megatron.teacher_gather "auto"): once per update if that
    takes at most a tenth of the rank's free memory by the estimate, else layer by layer. `memory` None: not known, so layer by layer,
    unless nothing has to be gathered.

    Raises: ConfigError if the ds_config asks for "update" and the estimate is above the free memory.
    """
    size = gather_bytes(recipe, config)
    if config.gathers_once is None and (memory is None or size == 0):
        return replace(config, gathers_once=size == 0)
    if memory is None or not size or config.gathers_once is False:
        return config
    by_layer = memory_need(recipe, replace(config, gathers_once=False), memory.on_gpu)
    free = memory.size - by_layer.total
    if config.gathers_once is None:
        return replace(config, gathers_once=size <= FREE_SHARE * free)
    if size > free:
        raise ConfigError(
            f'{config.path}: megatron.teacher_gather "update" needs {size / GIB:.2f} GiB per rank, and of {memory.size / GIB:.2f} GiB the '
            f'rest of the run needs {by_layer.total / GIB:.2f} by estimate; set it to "layer" or "auto", or take a smaller micro-batch'
        )
    return config
