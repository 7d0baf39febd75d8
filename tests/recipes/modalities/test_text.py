"""Text: random batches for benchmarks, and recipes for other lengths. test_registry.py has the tests for all modalities."""

from typing import Any

import numpy as np
import torch

from model.masking import NUM_SPECIAL_TOKENS
from recipes.check import check_recipe
from recipes.modalities.text import Text
from recipes.text import text_base, text_tiny
from tests.launching import tiny_recipe


def batch_of(size: int = 4, length: int = 50, **changes: object) -> tuple[Any, Any]:
    recipe = tiny_recipe(**changes)
    return recipe, Text().random_batch(recipe, size, length, np.random.default_rng(0))


def test_random_tokens_are_normal_tokens_of_the_vocabulary_without_padding() -> None:
    _, batch = batch_of(40, 500, frontend__vocab_size=20)
    assert batch.inputs.shape == batch.clean_inputs.shape == batch.masks.mask_BS.shape == (40, 500)
    assert set(batch.clean_inputs.unique().tolist()) == set(range(NUM_SPECIAL_TOKENS, 19)), (
        "neither special tokens nor <mask>, the last one"
    )
    assert batch.padding_mask_BS is None and batch.num_tokens == 40 * 500
    assert len({tuple(row.tolist()) for row in batch.clean_inputs}) == 40, "no two samples alike"


def test_masks_follow_the_recipe() -> None:
    _, all_of_it = batch_of(mask__prob=1, mask__length=1)
    assert all_of_it.masks.num_masked == 4 * 50 and (all_of_it.inputs == 199).all()
    _, some = batch_of(mask__prob=0.1, mask__length=1)
    assert 4 <= some.masks.num_masked <= 4 * 8
    assert torch.equal(some.inputs == 199, some.masks.mask_BS) and torch.equal(
        some.inputs[~some.masks.mask_BS], some.clean_inputs[~some.masks.mask_BS]
    )
    _, left = batch_of(mask__prob=1, mask__length=1, mask__leave_unmasked_prob=1, mask__loss_on_all_selected=True)
    assert left.masks.num_masked == 4 * 50 and torch.equal(left.inputs, left.clean_inputs)


def test_random_batches_depend_only_on_the_generator() -> None:
    (_, one), (_, same) = batch_of(), batch_of()
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.masks.mask_BS, same.masks.mask_BS)
    other = Text().random_batch(tiny_recipe(), 4, 50, np.random.default_rng(1))
    assert not torch.equal(one.clean_inputs, other.clean_inputs)


def test_a_recipe_for_longer_samples_gets_more_positions_and_one_for_shorter_samples_keeps_its_own() -> None:
    for build, length, positions in ((text_base, 2048, 2048), (text_base, 64, 512), (text_tiny, 513, 513)):
        resized: Any = Text().resized(build(), length)
        assert (resized.data.sequence_length, resized.frontend.max_positions) == (length, positions)
        assert resized.model == build().model and resized.frontend.positions == build().frontend.positions  # type: ignore[attr-defined]
        check_recipe(resized)
