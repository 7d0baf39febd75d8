"""Random views of whole pictures on the device: colour jitter, crop, resize and flip of a micro-batch, by the same steps and roundings as
Pillow's (images.view_pixels). The random numbers are drawn by the workers.

Shapes: B pictures, C 3 colours, P pixels of all pictures of a part, one after another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.data.images import Box, RandomView

GREY = (19595.0, 38470.0, 7471.0)
"""Weights of red, green and blue in grey, in parts of 65536 (Pillow's convert("L"))."""
PART_PIXELS = 2**23
"""Pixels that are changed at once, about: each takes some 60 bytes of temporary memory."""
BRIGHTNESS, CONTRAST = 0, 1


@dataclass(frozen=True)
class DeviceViews:
    """The views of a micro-batch of pictures. Implements Unfinished."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height of each picture."""
    boxes: tuple[Box, ...]
    flips: tuple[bool, ...]
    counts_B: Tensor
    """int64, pixels of each picture. On the device too, since a number that comes from the host would make it wait."""
    order_B3: Tensor
    """int64, the changes of colour in their order, as RandomView.order. (batch, 0): none."""
    factors_B3: Tensor
    """float32, RandomView.factors."""
    size: int
    """Width and height of the views."""

    def finish(self, inputs: Tensor) -> Tensor:
        """Return the views. Shapes: the pixels of the pictures, uint8 (pixels of all, C) -> uint8 (B, C, size, size)."""
        views = []
        for own in self._parts():
            counts = [width * height for width, height in self.sizes[own]]
            start = sum(width * height for width, height in self.sizes[: own.start])
            pixels_PC = inputs[start : start + sum(counts)].float()
            pixels_PC = jittered(pixels_PC, self.counts_B[own], self.order_B3[own], self.factors_B3[own])
            for number, part_PC in zip(range(own.start, own.stop), pixels_PC.split(counts), strict=True):
                width, height = self.sizes[number]
                views.append(cut(part_PC.view(height, width, 3), self.boxes[number], self.flips[number], self.size))
        return torch.stack(views)

    def _parts(self) -> Iterator[slice]:
        """Yield slices of the batch that have about PART_PIXELS pixels at most, and one picture at least."""
        start, total = 0, 0
        for number, (width, height) in enumerate(self.sizes):
            if number > start and total + width * height > PART_PIXELS:
                yield slice(start, number)
                start, total = number, 0
            total += width * height
        yield slice(start, len(self.sizes))


def build_views(pictures: Sequence[np.ndarray], views: Sequence[RandomView], size: int) -> tuple[Tensor, DeviceViews]:
    """Return the pixels of the pictures, one after another, and what makes views of them. Shapes: uint8 (height, width, C) each -> uint8
    (pixels of all, C)."""
    pixels = torch.from_numpy(np.concatenate([picture.reshape(-1, 3) for picture in pictures]))
    return pixels, DeviceViews(
        sizes=tuple((picture.shape[1], picture.shape[0]) for picture in pictures),
        counts_B=torch.tensor([picture.shape[0] * picture.shape[1] for picture in pictures]),
        boxes=tuple(view.box for view in views),
        flips=tuple(view.is_flipped for view in views),
        order_B3=torch.tensor([view.order for view in views], dtype=torch.int64),
        factors_B3=torch.tensor([view.factors for view in views], dtype=torch.float32),
        size=size,
    )


def jittered(pixels_PC: Tensor, counts_B: Tensor, order_B3: Tensor, factors_B3: Tensor) -> Tensor:
    """Return the pixels of pictures with counts_B pixels each after their changes of colour. Each change moves a pixel away from 0
    (brightness), from the mean grey of the picture (contrast) or from its own grey (saturation), and drops the fraction, as Pillow does.

    Shapes: whole numbers as floats (P, C), before and after. order_B3 may be (B, 0): then nothing changes.
    """
    if not order_B3.shape[1]:
        return pixels_PC
    owner_P = torch.repeat_interleave(torch.arange(len(counts_B), device=counts_B.device), counts_B, output_size=len(pixels_PC))
    for kind_B in order_B3.unbind(1):
        red_P, green_P, blue_P = (colour_P * weight for colour_P, weight in zip(pixels_PC.unbind(1), GREY, strict=True))
        grey_P = (red_P + green_P + blue_P + 32768).div_(65536).floor_()  # exact: the sums are whole and below 2^24
        mean_B = (torch.segment_reduce(grey_P.double(), "mean", lengths=counts_B, unsafe=True) + 0.5).floor().float()
        factor_P = factors_B3.gather(1, kind_B[:, None])[:, 0][owner_P]
        kind_P = kind_B[owner_P]
        other_P = torch.where(kind_P == CONTRAST, mean_B[owner_P], grey_P).masked_fill_(kind_P == BRIGHTNESS, 0)
        other_P1 = other_P[:, None]
        pixels_PC = (other_P1 + factor_P[:, None] * (pixels_PC - other_P1)).clamp_(0, 255).floor_()
    return pixels_PC


def cut(picture_HWC: Tensor, box: Box, is_flipped: bool, size: int) -> Tensor:
    """Return the crop of the picture, resized bicubically to size x size, and flipped if `is_flipped`. Rows are resized first and rounded,
    then columns, as Pillow does.

    Shapes: whole numbers as floats (height, width, C) -> uint8 (C, size, size).
    """
    left, upper, right, lower = box
    crop_1CHW = picture_HWC[upper:lower, left:right].permute(2, 0, 1)[None]
    for shape in ((lower - upper, size), (size, size)):
        crop_1CHW = F.interpolate(crop_1CHW, shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    view_CHW = crop_1CHW[0].to(torch.uint8)
    return view_CHW.flip(-1) if is_flipped else view_CHW
