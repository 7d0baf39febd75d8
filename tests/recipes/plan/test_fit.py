"""The size of the micro-batch that fits the memory of a device, and what a dry run prints about it."""

import re

import pytest

from recipes.catalog import RECIPES
from recipes.ds_config import LARGEST_AUTO_MICRO_BATCH, EngineConfig, resolve
from recipes.errors import ConfigError
from recipes.plan.fit import MEMORY_SHARE, MOST_POSITIONS, DeviceMemory, fit_micro_batch, memory_line, memory_need
from recipes.plan.memory import GIB, PhaseMemory
from recipes.plan.size import student_parameters, whole_elements
from recipes.settings import apply_overrides

BF16 = {"bf16": {"enabled": True}}
GPU_80 = DeviceMemory(79 * GIB, on_gpu=True)


def fitted(name: str, memory: DeviceMemory, content: dict | None = None, *changes: str, ranks: int = 1) -> EngineConfig:
    recipe = apply_overrides(RECIPES[name.partition("_")[0]][name](), list(changes))
    return fit_micro_batch(recipe, resolve(recipe, BF16 if content is None else content, "mine.json", ranks), memory)


@pytest.mark.parametrize(("name", "micro"), [("text_base", 128), ("vision_base", 256), ("text_large", 128), ("speech_base", 8)])
def test_the_automatic_sizes_on_80_gb(name: str, micro: int) -> None:
    """Of text and vision at most MOST_POSITIONS positions: 128 x 512, 256 x 197. Speech: one group of recordings of one length."""
    config = fitted(name, GPU_80)
    assert config.batch.micro_batch_size == micro
    assert config.deepspeed["train_micro_batch_size_per_gpu"] == micro
    assert config.deepspeed["gradient_accumulation_steps"] == config.batch.accumulation_steps
    assert config.batch.accumulation_steps * micro == config.deepspeed["train_batch_size"]


@pytest.mark.parametrize("name", [name for recipes in RECIPES.values() for name in recipes])
@pytest.mark.parametrize("gib", [16, 24, 141])
def test_the_automatic_size_fits_and_the_next_one_does_not(name: str, gib: int) -> None:
    recipe, memory = RECIPES[name.partition("_")[0]][name](), DeviceMemory(gib * GIB, on_gpu=True)
    config = fitted(name, memory)
    share, micro = recipe.run.global_batch_size, config.batch.micro_batch_size
    assert memory_need(recipe, config, True).total <= MEMORY_SHARE * memory.size or micro == 1
    length = recipe.frontend.tokens_per_sample(recipe.data.longest_sample) + recipe.frontend.num_prefix_tokens
    within = share if recipe.data.group_size == 1 else recipe.data.group_size
    larger = next((n for n in range(micro + 1, within + 1) if share % n == 0 and within % n == 0), None)
    if larger:
        is_too_much = memory_need(recipe, config, True, larger).total > MEMORY_SHARE * memory.size
        assert is_too_much or larger * length > MOST_POSITIONS


def test_on_a_cpu_it_stays_at_most_16_and_shrinks_where_memory_is_short() -> None:
    assert fitted("text_base", DeviceMemory(512 * GIB, on_gpu=False), {}).batch.micro_batch_size == LARGEST_AUTO_MICRO_BATCH
    assert fitted("text_base", DeviceMemory(7 * GIB, on_gpu=False), {}).batch.micro_batch_size == 4


def test_without_any_size_that_fits_the_smallest_is_taken_and_the_line_says_so() -> None:
    recipe, memory = RECIPES["text"]["text_large"](), DeviceMemory(2 * GIB, on_gpu=True)
    config = fitted("text_large", memory)
    assert config.batch.micro_batch_size == 1
    assert memory_line(recipe, config, memory).endswith(
        'of 2.0 GiB, and 5.33 GiB of host memory; no size fits: take more ranks, tensor parallelism, "activation_checkpointing": {"enabled"'
        ": true}, zero3_offload_cpu or shorter samples"
    )


def test_a_given_size_that_cannot_fit_is_refused_with_the_numbers_and_the_largest_that_fits() -> None:
    content = BF16 | {"train_micro_batch_size_per_gpu": 128}
    with pytest.raises(ConfigError) as caught:
        fitted("text_base", DeviceMemory(16 * GIB, on_gpu=True), content)
    assert re.fullmatch(
        r"mine\.json: train_micro_batch_size_per_gpu 128 needs states [\d.]+ \+ activations [\d.]+ = 2\d\.\d\d GiB per "
        r'rank by estimate, and a rank has 16\.00 GiB; set it to 64 or "auto"',
        str(caught.value),
    )
    fits = fitted("text_base", DeviceMemory(16 * GIB, on_gpu=True), content | {"train_micro_batch_size_per_gpu": 64})
    assert fits.batch.micro_batch_size == 64 == fits.largest_micro_batch


def test_where_no_size_fits_the_error_has_other_remedies() -> None:
    content = BF16 | {"train_micro_batch_size_per_gpu": 4}
    with pytest.raises(
        ConfigError,
        match=r'no size fits: take more ranks, tensor parallelism, "activation_checkpointing": .*, zero3_offload_cpu or shorter',
    ):
        fitted("text_large", DeviceMemory(2 * GIB, on_gpu=True), content)
    with pytest.raises(ConfigError, match="no size fits: take more ranks, tensor parallelism, zero3_offload_cpu or shorter samples"):
        fitted("text_large", DeviceMemory(2 * GIB, on_gpu=True), content | {"activation_checkpointing": {"enabled": True}})


def test_recomputing_and_offload_leave_room_for_more() -> None:
    memory = DeviceMemory(24 * GIB, on_gpu=True)
    plain = fitted("text_large", memory, BF16).batch.micro_batch_size
    assert fitted("text_large", memory, BF16 | {"activation_checkpointing": {"enabled": True}}).batch.micro_batch_size > plain
    recipe, offload = RECIPES["text"]["text_large"](), {"offload_optimizer": {"device": "cpu"}}
    needs = [memory_need(recipe, resolve(recipe, BF16 | {"zero_optimization": zero}, "x", 1), True) for zero in ({}, offload)]
    assert size_of(needs[0], "states") > 2 * size_of(needs[1], "states")
    assert needs[0].device["activations"] == needs[1].device["activations"]


def size_of(need: PhaseMemory, group: str) -> float:
    return sum(need.device[group].values())


def test_gathered_weights_and_the_bucket_of_gradients_are_buffers() -> None:
    recipe = RECIPES["text"]["text_base"]()
    block = 2 * (12 * 768**2 + 13 * 768)
    assert "buffers" not in memory_need(recipe, resolve(recipe, BF16, "x", 1), True).device, "one rank gathers and reduces nothing"
    zero = {"reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0}
    shared = memory_need(recipe, resolve(recipe, BF16 | {"zero_optimization": zero}, "x", 2), True).device["buffers"]
    held = whole_elements(student_parameters(recipe), resolve(recipe, BF16, "x", 2).batch)
    assert shared == {"bucket of gradients": 2000, "gathered weights": 2 * held, "weights of the teacher's next layers": block}
    short = BF16 | {"zero_optimization": zero | {"stage3_max_reuse_distance": 10**6}}
    few = memory_need(recipe, resolve(recipe, short, "x", 2), True).device["buffers"]["gathered weights"]
    assert few == 2 * (2 * 768 * 1536 + 1536 + 768), "the head, with which the backward begins"


def test_the_estimate_is_near_the_measured_peaks_of_a_gpu() -> None:
    """docs/performance.md, one H200: 14.8 GiB for text_base 64 x 512, 26.0 for 128 x 512, 23.7 for vision_base 256. Of the last one, 3.2
    GiB were left by the networks of earlier rows."""
    for name, micro, measured in (("text_base", 64, 14.8), ("text_base", 128, 26.0), ("vision_base", 256, 20.5)):
        recipe = RECIPES[name.partition("_")[0]][name]()
        config = resolve(recipe, BF16 | {"train_micro_batch_size_per_gpu": micro}, "x", 1)
        assert memory_need(recipe, config, True).total / GIB == pytest.approx(measured, rel=0.15)


def test_the_line_of_a_dry_run_has_the_parts_and_of_how_much() -> None:
    recipe = RECIPES["text"]["text_base"]()
    config, number = fitted("text_base", GPU_80), r"\d+\.\d\d"
    parts = rf"memory per rank, estimated: states {number} \+ activations {number} = {number} GiB"
    host = rf", and {number} GiB of host memory"
    assert re.fullmatch(rf"{parts}, of 79\.0 GiB{host}", memory_line(recipe, config, GPU_80))
    assumed = memory_line(recipe, config, GPU_80._replace(is_assumed=True))
    assert re.fullmatch(rf"{parts}, of 79\.0 GiB of a GPU that is assumed{host}", assumed)
    assert re.fullmatch(rf"{parts}{host}; that of the device is not known", memory_line(recipe, config, None))
