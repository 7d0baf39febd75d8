"""The parts of a rank's memory. benchmarks/plan_memory.py compares the sums with what the allocator holds; here are the rules."""

import pytest

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, resolve
from recipes.plan.memory import MemoryPlan, checkpoint_bytes, memory_plan, saved_elements
from recipes.plan.size import num_parameters, num_trunk_parameters
from recipes.settings import apply_overrides
from recipes.text import text_base

RECIPE = apply_overrides(text_base(), ["model.num_layers=2", "teacher.average_top_k_layers=2"])
ZERO = {"reduce_bucket_size": 25_000_000, "stage3_param_persistence_threshold": 0}
OFFLOAD = ZERO | {"offload_optimizer": {"device": "cpu"}}
MIB = 2**20


def planned(
    ranks: int = 1, *, zero: dict | None = None, on_gpu: bool = False, precision: str = "bf16", recipe: Recipe = RECIPE, **megatron: object
) -> MemoryPlan:
    return memory_plan(recipe, config(ranks, zero, precision, recipe, **megatron), on_gpu, 1, length=128)


def config(ranks: int, zero: dict | None = None, precision: str = "bf16", recipe: Recipe = RECIPE, **megatron: object) -> EngineConfig:
    content = {"zero_optimization": zero or ZERO, "megatron": {"teacher_gather": "update", **megatron}}
    return resolve(recipe, content | ({precision: {"enabled": True}} if precision != "fp32" else {}), "x.json", ranks)


@pytest.mark.parametrize(
    ("ranks", "precision", "megatron", "measured"),
    [
        (1, "fp32", {}, (1121.4, 1200.3, 1889.8)),
        (4, "bf16", {}, (438.9, 1125.7, 835.7)),
        (4, "bf16", {"tensor_model_parallel_size": 2}, (314.6, 706.2, 643.9)),
    ],
)
def test_the_sums_are_near_measured_ones(ranks: int, precision: str, megatron: dict, measured: tuple[float, float, float]) -> None:
    """MiB of gloo ranks, measured by benchmarks/plan_memory.py on a CPU, without oneDNN's workspaces."""
    layers = 4 if ranks == 4 and not megatron else 2
    recipe = apply_overrides(text_base(), [f"model.num_layers={layers}", f"teacher.average_top_k_layers={layers}"])
    zero = ZERO if ranks > 1 else ZERO | {"reduce_bucket_size": 50_000_000}
    used = config(ranks, zero, precision, recipe, **megatron)
    plan = memory_plan(recipe, used, False, 2 if ranks == 1 else 1, length=128)
    assert [phase.total / MIB for phase in plan] == pytest.approx(measured, rel=0.05)


def test_an_offloaded_optimizer_is_in_host_memory_where_ranks_have_a_gpu() -> None:
    plan, alone = planned(2, zero=OFFLOAD, on_gpu=True), planned(2, on_gpu=True)
    assert plan.train.host["states"].keys() == {
        *("master weights", "gradients", "gradients of the host's optimizer", "moments", "EMA shadow"),
    }
    assert plan.train.device["states"].keys() == {"parameters", "teacher"} and not alone.train.host
    assert plan.train.total < alone.train.total
    assert not planned(2, zero=OFFLOAD).train.host, "a rank on a CPU has no other memory"


def test_a_checkpoint_is_copied_to_host_memory_and_its_files_have_float32_numbers() -> None:
    size = checkpoint_bytes(RECIPE)
    padding = 39 * 768  # rows of the table of tokens
    assert size == 4 * (3 * (num_parameters(RECIPE) + padding) + num_trunk_parameters(RECIPE) + padding)
    assert 4 * saved_elements(RECIPE, config(1)) == size and 4 * saved_elements(RECIPE, config(4)) == pytest.approx(size / 4, rel=1e-4)
    plan = planned(2, on_gpu=True)
    assert plan.save.host_total == 4 * saved_elements(RECIPE, config(2)) and "checkpoint" not in plan.save.device
    assert "checkpoint" in planned(2).save.device


def test_moments_are_not_there_while_a_run_is_built_and_the_float32_weights_are_there_twice() -> None:
    built = planned(1, precision="fp32").build.device
    assert "moments" not in built["states"] and built["states"]["master weights"] == built["states"]["parameters"]
    assert "master weights" not in planned(1, precision="fp32").train.device["states"]
    assert built["buffers"]["bucket of gradients"] == 4 * 25_000_000, "also on a single rank, which releases it"


def test_the_worst_phase_counts_and_is_shown_by_groups() -> None:
    plan = planned(1, precision="fp32")
    assert plan.worst is plan.save and plan.worst.total == max(phase.total for phase in plan)
    sizes = plan.save.in_words
    assert sizes.startswith("states ") and " + checkpoint " in sizes and sizes.endswith(f" = {plan.save.total / 2**30:.2f} GiB")


def test_a_teacher_of_several_ranks_is_whole_or_gathered_ahead_of_its_layers() -> None:
    once, by_layer = planned(2, on_gpu=True), planned(2, on_gpu=True, teacher_gather="layer")
    assert "whole teacher" in once.train.device["buffers"] and "whole teacher" not in by_layer.train.device["buffers"]
    assert once.train.total > by_layer.train.total
    assert planned(1, on_gpu=True).train.total == planned(1, on_gpu=True, teacher_gather="layer").train.total
