"""Mixup and cutmix of pairs: shares, rectangles, and the same result in any micro-batch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.data.mixing import class_shares, cut_box, mix_pairs

NUM_CLASSES = 5
alphas = st.sampled_from([0.0, 0.1, 0.8, 1.0, 5.0])
seeds = st.integers(0, 2**32)


def generators(num_pairs: int, seed: int = 0) -> list[np.random.Generator]:
    """One new generator for each pair."""
    return [np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, pair)))) for pair in range(num_pairs)]


def numbered(num_images: int, height: int = 6, width: int = 8) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) whose pixels are all the image's number, and classes (B,), different in each pair."""
    numbers_B = torch.arange(num_images)
    return numbers_B.float()[:, None, None, None].repeat(1, 3, height, width), numbers_B % NUM_CLASSES


def mix(images_BCHW: Tensor, classes_B: Tensor, rngs: list[np.random.Generator], **mixing: Any) -> tuple[Tensor, Tensor]:
    """mix_pairs without smoothing and mixing, except for `mixing`."""
    plain = {"num_classes": NUM_CLASSES, "label_smoothing": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    return mix_pairs(images_BCHW, classes_B, rngs, **(plain | mixing))


@settings(deadline=None)
@given(seeds, alphas, alphas, st.floats(0, 0.9), st.integers(1, 4))
def test_the_shares_of_a_sample_sum_to_1_within_1e_6(seed: int, mixup: float, cutmix: float, smoothing: float, num_pairs: int) -> None:
    images_BCHW, classes_B = numbered(2 * num_pairs)
    mixing = {"label_smoothing": smoothing, "mixup_alpha": mixup, "cutmix_alpha": cutmix}
    mixed_BCHW, shares_BK = mix(images_BCHW, classes_B, generators(num_pairs, seed), **mixing)
    assert mixed_BCHW.shape == images_BCHW.shape and shares_BK.shape == (2 * num_pairs, NUM_CLASSES)
    assert mixed_BCHW.dtype == shares_BK.dtype == torch.float32
    assert (shares_BK >= 0).all() and (abs(shares_BK.sum(1) - 1) < 1e-6).all()


@settings(deadline=None)
@given(seeds, alphas, alphas, st.integers(1, 9), st.integers(1, 9))
def test_the_share_of_a_class_is_the_share_of_its_image_within_1e_5(
    seed: int, mixup: float, cutmix: float, height: int, width: int
) -> None:
    images_BCHW, classes_B = torch.zeros(2, 3, height, width), torch.tensor([3, 1])
    images_BCHW[1] = 1
    mixed_BCHW, shares_BK = mix(images_BCHW, classes_B, generators(1, seed), mixup_alpha=mixup, cutmix_alpha=cutmix)
    share_of_1_B = mixed_BCHW.mean((1, 2, 3))  # of the area with cutmix, of each pixel with mixup
    torch.testing.assert_close(shares_BK[:, 1], share_of_1_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares_BK[:, 3], 1 - share_of_1_B, atol=1e-5, rtol=0)
    torch.testing.assert_close(share_of_1_B.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)  # the two samples are mirror images


@settings(deadline=None)
@given(seeds, st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_a_rectangle_lies_within_the_image_and_has_at_most_the_requested_area(seed: int, height: int, width: int, share: float) -> None:
    left, upper, right, lower = cut_box(height, width, share, generators(1, seed)[0])
    assert 0 <= left <= right <= width and 0 <= upper <= lower <= height
    assert (right - left) * (lower - upper) <= share * height * width + 1e-6


def test_rectangles_have_the_images_ratio_reach_every_edge_and_are_cut_off_there() -> None:
    rng = generators(1)[0]
    boxes = np.array([cut_box(100, 200, 0.25, rng) for _ in range(2000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert widths.max() == 100 and heights.max() == 50 and widths.min() == 50 and heights.min() == 25
    assert boxes.min(0).tolist()[:2] == [0, 0] and boxes.max(0).tolist()[2:] == [200, 100]


@settings(deadline=None)
@given(seeds, alphas, alphas, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_pair_gives_the_same_bits_in_any_micro_batch(seed: int, mixup: float, cutmix: float, pairs_per_batch: list[int]) -> None:
    num_pairs = sum(pairs_per_batch)
    images_BCHW = torch.randn(2 * num_pairs, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    classes_B = torch.arange(2 * num_pairs) % NUM_CLASSES
    mixing = {"label_smoothing": 0.1, "mixup_alpha": mixup, "cutmix_alpha": cutmix}
    whole = mix(images_BCHW, classes_B, generators(num_pairs, seed), **mixing)
    sizes, rngs = [2 * number for number in pairs_per_batch], iter(generators(num_pairs, seed))
    parts = [
        mix(images, classes, [next(rngs) for _ in range(len(classes) // 2)], **mixing)
        for images, classes in zip(images_BCHW.split(sizes), classes_B.split(sizes), strict=True)
    ]
    assert torch.equal(whole[0], torch.cat([images for images, _ in parts]))
    assert torch.equal(whole[1], torch.cat([shares for _, shares in parts]))


def test_mixup_blends_each_pixel_of_a_pair_and_no_others() -> None:
    images_BCHW, classes_B = numbered(6)
    mixed_BCHW, shares_BK = mix(images_BCHW, classes_B, generators(3), mixup_alpha=0.8)
    for pair, (first, second) in enumerate(((0, 1), (2, 3), (4, 0))):  # 5 classes: the sixth image is of class 0
        own = shares_BK[2 * pair, first]
        assert 0 < own < 1 and shares_BK[2 * pair + 1, second] == own
        torch.testing.assert_close(mixed_BCHW[2 * pair], torch.full((3, 6, 8), float(2 * pair + 1 - own)))
        torch.testing.assert_close(mixed_BCHW[2 * pair + 1], torch.full((3, 6, 8), float(2 * pair + own)))
    assert len(set(shares_BK.max(1).values.tolist())) == 3, "each pair has its own share"


def test_cutmix_swaps_one_rectangle_and_blends_nothing() -> None:
    images_BCHW, classes_B = numbered(40, 16, 16)
    mixed_BCHW, _ = mix(images_BCHW, classes_B, generators(20), cutmix_alpha=1.0)
    for pair in range(20):
        first_HW, second_HW = mixed_BCHW[2 * pair, 0], mixed_BCHW[2 * pair + 1, 0]
        assert set(first_HW.unique().tolist()) <= {2 * pair, 2 * pair + 1} and torch.equal(
            first_HW + second_HW, torch.full((16, 16), 4.0 * pair + 1)
        )
        is_other_HW = first_HW == 2 * pair + 1
        assert is_other_HW.sum() == is_other_HW.any(0).sum() * is_other_HW.any(1).sum()
    assert torch.equal(images_BCHW, numbered(40, 16, 16)[0]), "the given images stay"


def test_mixup_and_cutmix_are_equally_probable_within_5_standard_errors_and_each_has_its_own_beta_distribution() -> None:
    images_BCHW, classes_B = numbered(4000, 8, 8)
    mixed_BCHW, shares_BK = mix(images_BCHW, classes_B, generators(2000), mixup_alpha=5.0, cutmix_alpha=0.01)
    is_mixup_P = torch.tensor([bool((image != image.round()).any()) for image in mixed_BCHW[::2]])
    assert abs(is_mixup_P.float().mean() - 0.5) < 5 * 0.5 / 2000**0.5
    own_share_P = shares_BK[torch.arange(4000), classes_B][::2]
    assert abs(own_share_P[is_mixup_P].mean() - 0.5) < 0.03
    assert abs(own_share_P[is_mixup_P].std() - (4 * (2 * 5 + 1)) ** -0.5) < 0.02
    # Beta(0.01, 0.01) is nearly always close to 0 or to 1: whole rectangles, cut off at the edges, or none.
    assert abs((own_share_P[~is_mixup_P] == 1).float().mean() - 0.5) < 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_only_the_classes_are_smoothed_as_torchs_cross_entropy_smooths_them(smoothing: float) -> None:
    images_BCHW, classes_B = numbered(6)
    rngs = generators(3)
    mixed_BCHW, shares_BK = mix(images_BCHW, classes_B, rngs, label_smoothing=smoothing)
    assert torch.equal(mixed_BCHW, images_BCHW) and torch.equal(shares_BK, class_shares(classes_B, NUM_CLASSES, smoothing))
    logits_BK = torch.randn(6, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits_BK, classes_B, label_smoothing=smoothing)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits_BK, shares_BK), expected)


def test_half_a_pair_is_refused() -> None:
    images_BCHW, classes_B = numbered(3)
    with pytest.raises(AssertionError, match="pairs are whole"):
        mix(images_BCHW, classes_B, generators(1), mixup_alpha=0.8)
