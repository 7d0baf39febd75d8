"""Speech: random batches for benchmarks. test_registry.py has the tests for all modalities."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.modalities.speech import Speech
from recipes.speech import speech_tiny
from tests.launching import tiny_recipe


def batch_of(size: int = 6, seconds: int = 1, seed: int = 0, **changes: object) -> tuple[Any, Any]:
    recipe = tiny_recipe("speech", **changes)
    return recipe, Speech().random_batch(recipe, size, seconds, np.random.default_rng(seed))


@pytest.mark.parametrize("rate", [4000, 16_000])
def test_both_networks_get_noise_of_this_many_seconds_at_the_recipes_rate(rate: int) -> None:
    recipe, batch = batch_of(seconds=2, data__sample_rate=rate)
    assert batch.inputs is batch.clean_inputs and batch.inputs.shape == (6, 2 * rate) and batch.inputs.dtype == torch.float32
    assert abs(float(batch.inputs.mean())) < 0.05 and abs(float(batch.inputs.std()) - 1) < 0.05
    assert not torch.equal(batch.inputs[0], batch.inputs[1])
    frames = recipe.frontend.num_frames(2 * rate)
    assert batch.masks.mask_BS.shape == (6, frames) and batch.num_tokens == 6 * frames and batch.padding_mask_BS is None


def test_masks_follow_the_recipe_and_hide_equally_many_frames_of_every_sample() -> None:
    shares = []
    for prob in (0.1, 0.9):
        for seed in range(5):
            _, batch = batch_of(seed=seed, mask__prob=prob)
            assert len(set(batch.masks.mask_BS.sum(dim=1).tolist())) == 1
            assert len({tuple(row.tolist()) for row in batch.masks.mask_BS}) == 6, "each masks other frames"
        shares.append(float(batch.masks.mask_BS.float().mean()))
    assert 0.02 < shares[0] < 0.1 and 0.4 < shares[1] < 0.9
    recipe, single = batch_of(1, mask__prob=1e-6, mask__length=7, mask__min_masks=1)
    (places,) = single.masks.mask_BS.nonzero(as_tuple=True)[1:]
    assert (places.diff() == 1).all() and len(places) == recipe.mask.length == 7, "one span"


def test_random_batches_depend_only_on_the_generator() -> None:
    (_, one), (_, same), (_, other) = batch_of(), batch_of(), batch_of(seed=1)
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.masks.mask_BS, same.masks.mask_BS)
    assert not torch.equal(one.inputs, other.inputs)


def test_recordings_of_any_length_fit_the_recipe() -> None:
    assert Speech().resized(speech_tiny(), 30) == speech_tiny()


def test_a_mask_that_may_cover_the_shortest_recording_is_refused_before_anything_is_prepared() -> None:
    recipe = speech_tiny()
    with pytest.raises(ConfigError, match=r"data\.min_seconds 0\.2 gives 9 frames, .* may cover whole; --set data\.min_seconds="):
        check_recipe(replace(recipe, data=replace(recipe.data, min_seconds=0.2)))  # type: ignore[call-arg]
