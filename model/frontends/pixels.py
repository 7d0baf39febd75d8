"""Bytes of pictures as the numbers that the vision front-end embeds. Reads no files and resizes nothing.

Shapes: C 3 colours (red, green, blue), H, W pixels.
"""

import torch
from torch import Tensor

from model.frontends.config import IMAGENET_MEAN, IMAGENET_STD


def normalise(pixels_CHW: Tensor) -> Tensor:
    """Return (pixel / 255 - mean) / std with ImageNet's mean and std of each colour. Pixels that are floats are normalised already and are
    returned as they are.

    Shapes: uint8 (..., C, H, W) -> float32 (..., C, H, W).
    """
    if pixels_CHW.is_floating_point():
        return pixels_CHW
    view_CHW = pixels_CHW.to(torch.float32, copy=True)
    for colour_HW, mean, std in zip(view_CHW.unbind(-3), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        colour_HW.mul_(1 / (255 * std)).add_(-mean / std)  # numbers, not a tensor of them: that would be copied to the device first
    return view_CHW
