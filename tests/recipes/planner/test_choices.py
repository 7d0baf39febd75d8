"""The layouts that a run may have on a cluster, and their order."""

from typing import Any

import pytest

from recipes.config import Recipe
from recipes.ds_config import SHIPPED, load_ds_config, resolve
from recipes.plan.links import Cluster
from recipes.planner.choices import Layout, choices, layout_of, layouts, least_memory, nearest, resolved, smallest_cluster
from recipes.planner.run_plan import RunPlan
from recipes.settings import apply_overrides
from recipes.text import text_base, text_large

PATH = SHIPPED / "zero3_bf16.json"
CONTENT = load_ds_config(PATH)
NODE = Cluster.of_text("nodes=1,gpus=8,device=h100")
SEVEN_BILLION = (
    *("model.num_layers=32", "model.hidden_size=4096", "model.ffn_hidden_size=16384", "model.num_attention_heads=32"),
    "run.global_batch_size=1024",
)


def ranked(recipe: Recipe, cluster: Cluster, content: dict[str, Any] | None = None) -> list[RunPlan]:
    return choices(recipe, content or CONTENT, str(PATH), cluster)


def test_layouts_of_one_node_have_no_copies_of_the_model_and_those_of_a_cpu_no_offload() -> None:
    assert {layout.shard_size for layout in layouts(NODE)} == {None}
    assert {layout.shard_size for layout in layouts(Cluster.of_text("nodes=2,gpus=8,device=h100"))} == {None, 8, 4, 2, 1}
    assert not any(layout.offloads for layout in layouts(Cluster.of_text("gpus=2,device=cpu")))


@pytest.mark.parametrize("layout", [Layout(1, None, False, False), Layout(2, 4, False, True), Layout(4, None, True, False)])
def test_a_layout_is_what_the_changed_ds_config_has(layout: Layout) -> None:
    before = dict(CONTENT)
    config = resolve(text_base(), layout.applied_to(CONTENT), "x.json", 16, 8)
    assert layout_of(config) == layout and config.has_auto_micro_batch
    assert before == CONTENT
    assert config.deepspeed["zero_optimization"]["reduce_bucket_size"] == 25_000_000, "the rest of the ds_config stays"


def test_the_fastest_comes_first_and_equals_are_ordered_by_simplicity() -> None:
    found = ranked(text_large(), NODE)
    seconds = [plan.step.total for plan in found]
    assert seconds[0] <= 1.02 * min(seconds)
    assert layout_of(found[0].config) == Layout(1, None, False, False)
    slower = [value for value in seconds if value > 1.02 * min(seconds)]
    assert slower == sorted(slower) and seconds[-len(slower) :] == slower
    assert all(plan.fits_well for plan in found)


def test_the_nearest_choice_changes_least_of_the_asked_layout() -> None:
    found = ranked(text_large(), NODE)
    asked = next(plan for plan in found if layout_of(plan.config) == Layout(1, None, False, True))
    others = [plan for plan in found if layout_of(plan.config) != layout_of(asked.config)]
    assert layout_of(nearest(asked, others).config).changes(layout_of(asked.config)) == 1
    assert Layout(1, None, False, False).changes(Layout(2, 8, False, True)) == 3


def test_a_model_that_needs_it_gets_checkpointing_offload_or_tensor_parallelism() -> None:
    recipe = apply_overrides(text_large(), list(SEVEN_BILLION))
    found = ranked(recipe, NODE)
    assert found, "7 billion parameters fit eight H100"
    assert all(plan.fits_well for plan in found)
    assert not ranked(recipe, Cluster.of_text("nodes=1,gpus=1,device=l40s"))


def test_a_recipe_that_fits_nowhere_on_a_cluster_has_a_smallest_one_that_carries_it() -> None:
    recipe = apply_overrides(text_large(), [*SEVEN_BILLION, "model.num_layers=64"])
    small = Cluster.of_text("nodes=1,gpus=2,device=l40s")
    assert not ranked(recipe, small)
    larger = smallest_cluster(recipe, CONTENT, str(PATH), small)
    assert larger is not None and larger.gpus == 2 and larger.nodes > 1 and ranked(recipe, larger)
    least = least_memory(recipe, CONTENT, str(PATH), small)
    assert least is not None and not least.fits_well and layout_of(least.config).recomputes


def test_a_given_micro_batch_stays_in_the_asked_plan_and_is_open_in_the_choices() -> None:
    content = CONTENT | {"train_micro_batch_size_per_gpu": 2}
    assert resolved(text_base(), content, str(PATH), NODE).batch.micro_batch_size == 2
    assert ranked(text_base(), NODE, content)[0].config.batch.micro_batch_size > 2
