"""Whether a teacher is gathered once per update, by the estimated memory."""

import pytest

from recipes.ds_config import EngineConfig, resolve
from recipes.errors import ConfigError
from recipes.plan.fit import DeviceMemory, memory_need
from recipes.plan.gather import choose_gather, gather_bytes
from recipes.plan.memory import GIB
from recipes.plan.size import padded_elements, trunk_parameters
from recipes.text import text_base

RECIPE = text_base()
BF16 = {"bf16": {"enabled": True}}


def config(gather: str = "auto", world_size: int = 8, tp_size: int = 1, shard_size: int | None = None) -> EngineConfig:
    megatron = {"teacher_gather": gather, "tensor_model_parallel_size": tp_size} | ({"shard_size": shard_size} if shard_size else {})
    return resolve(RECIPE, BF16 | {"megatron": megatron, "train_micro_batch_size_per_gpu": 1}, "x.json", world_size)


def gpu(size: float) -> DeviceMemory:
    return DeviceMemory(int(size), on_gpu=True)


def test_the_whole_teacher_counts_twice_as_it_arrives_and_in_its_order() -> None:
    weights = 2 * padded_elements(trunk_parameters(RECIPE), config().batch)
    assert gather_bytes(RECIPE, config()) == gather_bytes(RECIPE, config(world_size=64, shard_size=8)) == 2 * weights
    assert weights < gather_bytes(RECIPE, config(tp_size=2)) < 1.02 * weights, "half of the matrices, and all of what is not split"
    assert gather_bytes(RECIPE, config(world_size=1)) == gather_bytes(RECIPE, config(world_size=2, tp_size=2)) == 0


def test_auto_gathers_once_if_that_takes_at_most_a_tenth_of_the_free_memory() -> None:
    by_layer, size = memory_need(RECIPE, config(), True).total, gather_bytes(RECIPE, config())
    assert choose_gather(RECIPE, config(), gpu(by_layer + 10 * size + 10)).gathers_once is True
    assert choose_gather(RECIPE, config(), gpu(by_layer + 10 * size - 10)).gathers_once is False
    assert choose_gather(RECIPE, config(), None).gathers_once is False
    assert choose_gather(RECIPE, config(world_size=1), gpu(by_layer)).gathers_once is True, "one rank gathers nothing"
    assert choose_gather(RECIPE, config(world_size=1), None).gathers_once is True


def test_what_the_ds_config_says_is_done() -> None:
    assert choose_gather(RECIPE, config("layer"), gpu(80 * GIB)).gathers_once is False
    assert choose_gather(RECIPE, config("update"), gpu(8 * GIB)).gathers_once is True
    assert choose_gather(RECIPE, config("update"), None).gathers_once is True


def test_a_teacher_that_cannot_fit_is_an_error_with_the_numbers() -> None:
    need = memory_need(RECIPE, config("layer"), True).total
    said = r'teacher_gather "update" needs 0\.\d+ GiB per rank, and of .* the rest of the run needs .*; set it to "layer" or "auto"'
    with pytest.raises(ConfigError, match=said):
        choose_gather(RECIPE, config("update"), gpu(need + gather_bytes(RECIPE, config()) / 2))
