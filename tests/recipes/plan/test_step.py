"""The time of an update. benchmarks/plan_time.py compares it with runs; here are the rules."""

from dataclasses import replace

import pytest

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, resolve
from recipes.errors import ConfigError
from recipes.plan.flops import sample_flops
from recipes.plan.gather import choose_gather
from recipes.plan.links import Cluster
from recipes.plan.step import (
    HOST_SECONDS,
    OFFLOADED,
    StepPlan,
    executed_flops,
    host_seconds,
    moved_bytes,
    optimizer_bytes,
    step_plan,
)
from recipes.settings import apply_overrides
from recipes.speech import speech_base
from recipes.text import text_base
from tests.recipes.data.labelled_texts import recipe_of

BF16 = {"bf16": {"enabled": True}}
H100 = Cluster.of_text("nodes=1,gpus=8,device=h100")
CPU = Cluster.of_text("nodes=1,gpus=2,device=cpu")


def config(recipe: Recipe, ranks: int = 8, content: dict | None = None, **megatron: object) -> EngineConfig:
    content = BF16 if content is None else content
    used = content | {"megatron": {"teacher_gather": "update", **megatron}}
    return choose_gather(recipe, resolve(recipe, used, "x.json", ranks), None)


def plan(recipe: Recipe, cluster: Cluster = H100, content: dict | None = None, **megatron: object) -> StepPlan:
    return step_plan(recipe, config(recipe, cluster.num_ranks, content, **megatron), cluster)


def test_the_ranks_together_execute_the_model_flops_but_for_what_the_last_block_skips() -> None:
    recipe = text_base()
    step = plan(recipe)
    assert step.model_flops == 256 * sum(sample_flops(recipe).values())
    assert 0.93 < 8 * step.executed_flops / step.model_flops < 0.99
    shallow = apply_overrides(recipe, ["model.num_layers=1", "teacher.average_top_k_layers=1"])
    assert 8 * plan(shallow).executed_flops < 0.75 * plan(shallow).model_flops


def test_tensor_parallelism_splits_the_blocks_and_neither_the_head_nor_the_front_end() -> None:
    recipe = speech_base()
    whole, half = (executed_flops(recipe, config(recipe, size, tensor_model_parallel_size=size)) for size in (1, 2))
    assert 0.5 < half / whole < 0.75, "the convolutions stay"


def test_blocks_that_are_computed_again_cost_another_forward() -> None:
    recipe = text_base()
    again = BF16 | {"activation_checkpointing": {"enabled": True}}
    more = executed_flops(recipe, config(recipe, 8, again)) / executed_flops(recipe, config(recipe))
    assert more == pytest.approx(1.25, abs=0.02), "five forwards instead of four"
    assert moved_bytes(recipe, config(recipe, 8, again), True) == moved_bytes(recipe, config(recipe), True) * (5.5 * 5) / (5.5 * 4)


def test_a_frozen_trunk_has_neither_backward_nor_optimizer() -> None:
    frozen, whole = (recipe_of("words", "objective.labels=a,b", f"objective.frozen={part}") for part in ("trunk", "nothing"))
    assert executed_flops(frozen, config(frozen, 1)) < 0.4 * executed_flops(whole, config(whole, 1))
    assert optimizer_bytes(frozen, config(frozen, 1)) < 0.2 * optimizer_bytes(whole, config(whole, 1))
    assert moved_bytes(frozen, config(frozen, 1), True) * 3 == pytest.approx(moved_bytes(whole, config(whole, 1), True)), "its forward runs"
    assert host_seconds(frozen, config(frozen, 1), H100.device) < 0.6 * host_seconds(whole, config(whole, 1), H100.device)


def test_the_host_drives_each_block_and_micro_batch() -> None:
    recipe = text_base()
    one, many = config(recipe), config(recipe, 8, BF16 | {"train_micro_batch_size_per_gpu": 4})
    assert one.batch.accumulation_steps == 2 and many.batch.accumulation_steps == 8
    difference = host_seconds(recipe, many, CPU.device) - host_seconds(recipe, one, CPU.device)
    block = sum(HOST_SECONDS[name] for name in ("forward", "backward", "teacher"))
    assert difference == pytest.approx(12 * 6 * block * CPU.device.host_factor)
    ratio = host_seconds(recipe, one, H100.device) / host_seconds(recipe, one, CPU.device)
    assert ratio == pytest.approx(H100.device.host_factor / CPU.device.host_factor)
    again = replace(one, recomputes_activations=True)
    assert host_seconds(recipe, again, H100.device) > host_seconds(recipe, one, H100.device)
    assert host_seconds(recipe, replace(one, gathers_once=False), H100.device) > host_seconds(recipe, one, H100.device)


def test_on_a_gpu_the_longest_counts_and_on_a_cpu_the_sum() -> None:
    recipe = text_base()
    on_gpu = plan(recipe)
    assert on_gpu.total == max(sum(on_gpu.device.values()), on_gpu.host, on_gpu.links, on_gpu.loader)
    on_cpu = plan(recipe, CPU, {})
    assert on_cpu.total == pytest.approx(sum(on_cpu.device.values()) + on_cpu.host + on_cpu.links)


@pytest.mark.parametrize(
    ("changes", "text", "binds"),
    [
        (["run.global_batch_size=8"], "nodes=1,gpus=8,device=h100", "host"),
        (["run.global_batch_size=2048"], "nodes=1,gpus=8,device=h100,memory_gigabytes_per_second=1e6,efficiency=0.3", "compute"),
        (["run.global_batch_size=2048"], "nodes=1,gpus=8,device=h100", "memory"),
        (["run.global_batch_size=128"], "nodes=8,gpus=8,device=h100,network_gigabytes_per_second=0.5", "network"),
    ],
)
def test_what_binds(changes: list[str], text: str, binds: str) -> None:
    recipe = apply_overrides(text_base(), changes)
    cluster = Cluster.of_text(text)
    micro = recipe.run.global_batch_size // cluster.num_ranks
    assert plan(recipe, cluster, BF16 | {"train_micro_batch_size_per_gpu": micro}).binds == binds


def test_an_offloaded_optimizer_takes_the_hosts_time() -> None:
    recipe = text_base()
    offload = BF16 | {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    there, here = plan(recipe, content=offload), plan(recipe)
    assert there.device["optimizer"] == 0 < here.device["optimizer"] and there.host > here.host
    assert there.waits == there.device[OFFLOADED] > 0 == here.waits
    assert plan(recipe, CPU, {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}).device["optimizer"] > 0, "all is on the host"


def test_a_device_without_a_peak_in_the_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="device cpu has no peak in fp16"):
        plan(text_base(), CPU, {"fp16": {"enabled": True}})
