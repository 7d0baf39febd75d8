"""Vision: random batches for benchmarks. test_registry.py has the tests for all modalities."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.errors import ConfigError
from recipes.modalities.vision import Vision
from recipes.vision import vision_tiny
from tests.launching import tiny_recipe


def batch_of(size: int = 6, seed: int = 0, **changes: object) -> tuple[Any, Any]:
    recipe = tiny_recipe("vision", **changes)
    return recipe, Vision().random_batch(recipe, size, 0, np.random.default_rng(seed))


def test_both_networks_get_noise_of_the_recipes_size() -> None:
    recipe, batch = batch_of(frontend__image_size=40, frontend__num_channels=2)
    assert batch.inputs is batch.clean_inputs and batch.inputs.shape == (6, 2, 40, 40) and batch.inputs.dtype == torch.float32
    assert abs(float(batch.inputs.mean())) < 0.05 and abs(float(batch.inputs.std()) - 1) < 0.05
    assert not torch.equal(batch.inputs[0], batch.inputs[1])
    assert batch.masks.mask_BS.shape == (6, recipe.frontend.grid**2) == (6, 25)
    assert batch.num_tokens == 6 * 25 and batch.padding_mask_BS is None


def test_masks_follow_the_recipe() -> None:
    for num_patches in (2, 9):
        _, batch = batch_of(30, mask__num_patches=num_patches, mask__min_block=1)
        counts = batch.masks.mask_BS.sum(dim=1)
        assert int(counts.max()) == num_patches and float(counts.float().mean()) > 0.8 * num_patches
        assert len({tuple(row.tolist()) for row in batch.masks.mask_BS}) > 10, "each masks other patches"


def test_random_batches_depend_only_on_the_generator() -> None:
    (_, one), (_, same), (_, other) = batch_of(), batch_of(), batch_of(seed=1)
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.masks.mask_BS, same.masks.mask_BS)
    assert not torch.equal(one.inputs, other.inputs)


def test_images_have_the_recipes_size_and_a_length_is_refused() -> None:
    assert Vision().resized(vision_tiny(), 0) == vision_tiny()
    with pytest.raises(ConfigError, match=r"^--length 5: images have the recipe's size; leave it out$"):
        Vision().resized(vision_tiny(), 5)
