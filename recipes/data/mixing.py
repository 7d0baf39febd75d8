"""Mixup and cutmix: neighbours of a micro-batch are mixed in pairs, and so are their classes. The generator of each pair comes from the
caller, so that the result depends on the pair alone, and not on its micro-batch or rank.

Shapes: B batch, P = B / 2 pairs, K classes, C colours, H, W pixels.
Source: mixup arXiv 1710.09412, cutmix arXiv 1905.04899; the choice between them, the smoothing and the corrected share are timm's
(data/mixup.py).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.data.images import Box

CUTMIX_PROB = 0.5
"""Probability of cutmix for a pair if both are switched on (timm's mixup_switch_prob, data2vec's vision release)."""


def mix_pairs(
    images_BCHW: Tensor,
    classes_B: Tensor,
    rngs_P: Sequence[np.random.Generator],
    *,
    num_classes: int,
    label_smoothing: float,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[Tensor, Tensor]:
    """Mix images 2i and 2i + 1 with each other: both blended with one share (mixup), or one rectangle swapped (cutmix). Return the mixed
    images and the share of each class. An alpha of 0 switches its kind of mixing off. With both 0 only the classes are smoothed. The loss
    must not smooth the shares again.

    Shapes: images (B, C, H, W) of floats, classes int64 (B,), returned shares float32 (B, K), whose rows sum to 1.
    """
    assert len(images_BCHW) == len(classes_B) == 2 * len(rngs_P), "pairs are whole: data.group_size is 2"
    mixed_BCHW, shares_BK = images_BCHW.clone(), class_shares(classes_B, num_classes, label_smoothing)
    # Pair by pair, and not vectorised: the same operations on the same shapes give the same bits in a micro-batch of any size.
    for pair_2CHW, shares_2K, rng in zip(mixed_BCHW.split(2), shares_BK.split(2), rngs_P, strict=True):
        is_cutmix = bool(rng.random() < CUTMIX_PROB) if mixup_alpha and cutmix_alpha else bool(cutmix_alpha)
        alpha = cutmix_alpha if is_cutmix else mixup_alpha
        if not alpha:
            continue
        own_share = float(rng.beta(alpha, alpha))
        if is_cutmix:
            box = cut_box(pair_2CHW.shape[2], pair_2CHW.shape[3], 1 - own_share, rng)
            own_share = _swap_box(pair_2CHW, box)
        else:
            _blend(pair_2CHW, own_share)
        _blend(shares_2K, own_share)
    return mixed_BCHW, shares_BK


def class_shares(classes_B: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return the share of each class in each sample: label_smoothing / num_classes for every class, and 1 - label_smoothing more for its
    own class (as torch's cross_entropy smooths).

    Shapes: classes int64 (B,), returned float32 (B, K).
    """
    ones_BK = torch.nn.functional.one_hot(classes_B, num_classes).float()
    return ones_BK * (1 - label_smoothing) + label_smoothing / num_classes


def cut_box(height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """Return a random rectangle with `share` of the picture's area and the picture's ratio. Its centre is any pixel; what would lie outside
    the picture is cut off, so that the rectangle may be smaller, or empty.

    Source: cutmix's rand_bbox.
    """
    side = math.sqrt(share)
    (upper, lower), (left, right) = _interval(height, side, rng), _interval(width, side, rng)
    return left, upper, right, lower


def _interval(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    center, half = int(rng.integers(length)), int(length * share) // 2
    return max(center - half, 0), min(center + half, length)


def _swap_box(pair_2CHW: Tensor, box: Box) -> float:
    """Swap the rectangle between the two images in place. Return the share of the area that each keeps."""
    left, upper, right, lower = box
    part_2CHW = pair_2CHW[:, :, upper:lower, left:right]
    part_2CHW.copy_(part_2CHW.flip(0))  # flip makes a copy first
    return 1 - (right - left) * (lower - upper) / (pair_2CHW.shape[2] * pair_2CHW.shape[3])


def _blend(pair_2X: Tensor, own_share: float) -> None:
    """Blend the two in place: own_share of its own, the rest of the other."""
    other_2X = pair_2X.flip(0)
    pair_2X.mul_(own_share).add_(other_2X, alpha=1 - own_share)
