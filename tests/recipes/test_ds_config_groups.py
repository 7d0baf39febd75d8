"""Micro-batches of samples that depend on each other: they lie within one group of speech, or consist of whole pairs of mixed images."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.config import Recipe
from recipes.ds_config import plan_batch
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledVisionDataConfig
from recipes.settings import apply_overrides
from recipes.speech import speech_base
from recipes.vision import vision_tiny


def with_groups(num_groups: int, group_size: int) -> Recipe:
    return apply_overrides(speech_base(), [f"data.group_size={group_size}", f"run.global_batch_size={num_groups * group_size}"])


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 16), st.one_of(st.just("auto"), st.integers(1, 24)))
def test_a_micro_batch_lies_within_one_group_or_the_message_has_sizes_that_do(
    num_groups: int, group_size: int, dp_size: int, micro: int | str
) -> None:
    recipe = with_groups(num_groups, group_size)
    total = recipe.run.global_batch_size
    try:
        plan = plan_batch(recipe, micro, 1, dp_size)
    except ConfigError as error:
        assert total % dp_size or total // dp_size % int(micro) or group_size % int(micro), f"it divides, yet: {error}"
        if named := re.search(r"per_gpu to (\d+)(?: or (\d+))?|set it to (\d+)(?: or (\d+))?", str(error)):
            for text in filter(None, named.groups()):
                plan_batch(recipe, int(text), 1, dp_size)
        if named := re.search(r"data\.group_size=(\d+)", str(error)):
            plan_batch(apply_overrides(recipe, [named[0]]), micro, 1, dp_size)
        assert "\n" not in str(error)
        return
    assert plan.dp_size * plan.micro_batch_size * plan.accumulation_steps == total
    share, size = total // dp_size, plan.micro_batch_size
    if group_size == 1:
        return  # nothing is shared
    for rank in range(dp_size):
        for start in range(rank * share, (rank + 1) * share, size):
            assert start // group_size == (start + size - 1) // group_size


def test_the_group_error_has_the_numbers_and_both_remedies() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_batch(with_groups(4, 8), 16, 1, 1)
    assert str(caught.value) == (
        "train_micro_batch_size_per_gpu 16 does not divide data.group_size 8, whose samples share one crop length; set it to 4 or 8, "
        "or --set data.group_size=16"
    )


def with_pairs(global_batch_size: int, mixes: bool = True) -> Recipe:
    """Return a recipe of fine-tuning whose images are mixed in pairs."""
    recipe = replace(vision_tiny(), data=LabelledVisionDataConfig(mixup_alpha=0.8 * mixes))
    return apply_overrides(recipe, [f"run.global_batch_size={global_batch_size}"])


@given(st.integers(1, 64), st.integers(1, 6), st.one_of(st.just("auto"), st.integers(1, 24)))
def test_a_micro_batch_of_mixed_pairs_is_even_or_the_message_has_sizes_that_are(total: int, dp_size: int, micro: int | str) -> None:
    recipe = with_pairs(total)
    try:
        plan = plan_batch(recipe, micro, 1, dp_size)
    except ConfigError as error:
        assert total % (2 * dp_size) or total // dp_size % int(micro) or int(micro) % 2, f"it divides, yet: {error}"
        if named := re.search(r"per_gpu to (\d+)(?: or (\d+))?|set it to (\d+)(?: or (\d+))?", str(error)):
            for text in filter(None, named.groups()):
                plan_batch(recipe, int(text), 1, dp_size)
        for text in re.findall(r"global_batch_size=(\d+)", str(error)):
            plan_batch(with_pairs(int(text)), "auto", 1, dp_size)
        assert "\n" not in str(error) and "crop length" not in str(error)
        return
    assert plan.dp_size * plan.micro_batch_size * plan.accumulation_steps == total and plan.micro_batch_size % 2 == 0


def test_the_pair_error_has_the_numbers_and_both_remedies() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_batch(with_pairs(12), 3, 1, 1)
    assert str(caught.value) == (
        "train_micro_batch_size_per_gpu 3 is not a multiple of data.group_size 2, whose samples are mixed with each other; "
        "set it to 2 or 4, or do not mix: --set data.mixup_alpha=0 --set data.cutmix_alpha=0"
    )
    assert plan_batch(with_pairs(12, mixes=False), 3, 1, 1).micro_batch_size == 3


def test_an_automatic_micro_batch_is_the_largest_within_a_group() -> None:
    assert plan_batch(with_groups(4, 8), "auto", 1, 1).micro_batch_size == 8
    assert plan_batch(with_groups(4, 8), "auto", 1, 16).micro_batch_size == 2
    assert plan_batch(with_groups(2, 40), "auto", 1, 1).micro_batch_size == 10, "at most 16"
