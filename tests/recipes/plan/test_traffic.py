"""The collectives of an update. benchmarks/plan_traffic.py compares the bytes with those that process groups get."""

import pytest

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, resolve
from recipes.plan.gather import choose_gather
from recipes.plan.size import num_parameters
from recipes.plan.traffic import Traffic, module_elements, num_buckets, stays_gathered, update_traffic
from recipes.settings import apply_overrides
from recipes.text import text_base

ZERO = {"reduce_bucket_size": 25_000_000, "stage3_param_persistence_threshold": 0}


def two_layers(batch: int, *changes: str) -> Recipe:
    return apply_overrides(
        text_base(), ["model.num_layers=2", "teacher.average_top_k_layers=2", f"run.global_batch_size={batch}", *changes]
    )


def config(recipe: Recipe, ranks: int, *, zero: dict | None = None, micro: int = 2, **more: object) -> EngineConfig:
    megatron = {"teacher_gather": "update", **more}
    content = {"bf16": {"enabled": True}, "zero_optimization": zero or ZERO, "train_micro_batch_size_per_gpu": micro, "megatron": megatron}
    return choose_gather(recipe, resolve(recipe, content, "x.json", ranks), None)


def by_kind(found: list[Traffic]) -> dict[str, int]:
    sums = dict[str, int]()
    for one in found:
        key = f"{one.each.kind} {one.each.num_ranks}"
        sums[key] = sums.get(key, 0) + round(one.num_bytes)
    return sums


def test_weights_and_gradients_are_those_that_a_process_group_counted() -> None:
    """benchmarks/plan_traffic.py, cases 0 and 2: two micro-batches of one copy on 8 ranks, and of two copies on 16."""
    recipe = two_layers(32)
    assert by_kind(update_traffic(recipe, config(recipe, 8), 64)) == {"all_gather 8": 328_679_424, "reduce_scatter 8": 222_268_416}
    recipe = two_layers(64)
    assert by_kind(update_traffic(recipe, config(recipe, 16, shard_size=8), 64)) == {
        **{"all_gather 8": 328_679_424, "reduce_scatter 8": 222_268_416, "all_reduce 2": 27_783_552 * 4 // 4},
    }


def test_tensor_parallelism_sums_activations_and_copies_the_gradients_of_what_it_leaves_whole() -> None:
    recipe = two_layers(8)
    sums = by_kind(update_traffic(recipe, config(recipe, 8, tensor_model_parallel_size=2), 64))
    assert (sums["all_gather 4"], sums["reduce_scatter 4"], sums["broadcast 2"]) == (111_945_216, 58_334_208, 2_767_104)
    once = 2 * 64 * 768 * 2
    # student: tokens, 2 + 1 forward, 3 + 2 backward and the shares; teacher: tokens, 4
    assert 11 * once < sums["all_reduce 2"] < 15 * once


def test_blocks_that_are_computed_again_sum_their_activations_again() -> None:
    recipe = two_layers(8)
    plain = config(recipe, 2, tensor_model_parallel_size=2, micro=8)
    content = {"tensor_model_parallel_size": 2, "teacher_gather": "update"}
    again = resolve(recipe, {"megatron": content, "bf16": {"enabled": True}, "activation_checkpointing": {"enabled": True}}, "x.json", 2)
    assert by_kind(update_traffic(recipe, again, 64))["all_reduce 2"] > by_kind(update_traffic(recipe, plain, 64))["all_reduce 2"]


def test_one_rank_sends_nothing() -> None:
    recipe = two_layers(2)
    assert update_traffic(recipe, config(recipe, 1)) == []


def test_gradients_are_sent_for_each_micro_batch_and_those_of_copies_once() -> None:
    few, many = two_layers(32), two_layers(128)
    found = {one.name: one for one in update_traffic(few, config(few, 16, micro=2, shard_size=8))}
    more = {one.name: one for one in update_traffic(many, config(many, 16, micro=2, shard_size=8))}
    assert more["gradients"].num_bytes == 4 * found["gradients"].num_bytes
    assert more["weights of the student"].num_bytes == 4 * found["weights of the student"].num_bytes
    assert more["weights of the teacher"] == found["weights of the teacher"]
    assert more["gradients of the copies of the model"] == found["gradients of the copies of the model"]


def test_a_teacher_that_is_gathered_layer_by_layer_is_gathered_for_each_micro_batch() -> None:
    recipe = two_layers(64)
    once, by_layer = (
        next(one for one in update_traffic(recipe, config(recipe, 8, teacher_gather=how)) if one.name == "weights of the teacher")
        for how in ("update", "layer")
    )
    assert by_layer.num_bytes == pytest.approx(4 * once.num_bytes)


def test_weights_that_are_far_from_their_next_use_are_gathered_twice() -> None:
    recipe = two_layers(16)
    near, far = config(recipe, 8), config(recipe, 8, zero=ZERO | {"stage3_max_reuse_distance": 10**6})
    *front, last = module_elements(recipe, near.batch)
    assert stays_gathered(recipe, near) == sum(front) + last and stays_gathered(recipe, far) == last
    sent = [update_traffic(recipe, one)[0].num_bytes for one in (near, far)]
    assert sent[1] - sent[0] == 2 * sum(front)


def test_small_weights_are_gathered_after_the_step() -> None:
    recipe = two_layers(16)
    names = [one.name for one in update_traffic(recipe, config(recipe, 8, zero={"reduce_bucket_size": 10**7}))]
    assert "small weights after the step" in names
    assert num_parameters(recipe) > 0


@pytest.mark.parametrize(("sizes", "bucket", "count"), [([], 5, 0), ([3], 5, 1), ([1, 2, 3], 5, 2), ([9, 1, 1], 5, 2), ([5, 5], 5, 2)])
def test_a_bucket_is_sent_when_the_next_gradient_does_not_fit_in(sizes: list[int], bucket: int, count: int) -> None:
    assert num_buckets(sizes, bucket) == count
