"""Pixels: bytes are normalised by torchvision's formula, floats are left alone."""

import numpy as np
import torch

from model.frontends.config import IMAGENET_MEAN, IMAGENET_STD
from model.frontends.pixels import normalise

BYTES_BCHW = torch.randint(0, 256, (2, 3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bytes_are_normalised_by_torchvisions_formula_within_1e_6() -> None:
    before = BYTES_BCHW.clone()
    view_BCHW = normalise(BYTES_BCHW)
    mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
    assert view_BCHW.dtype == torch.float32 and view_BCHW.is_contiguous() and torch.equal(BYTES_BCHW, before)
    np.testing.assert_allclose(view_BCHW.numpy(), (BYTES_BCHW.numpy() / 255 - mean) / std, atol=1e-6, rtol=0)
    assert torch.equal(normalise(BYTES_BCHW[1]), view_BCHW[1]), "a single picture too"


def test_bytes_have_the_bits_that_float32_arithmetic_of_numpy_gives() -> None:
    """What earlier releases computed on the host: results of older runs stay."""
    slope_C = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)
    offset_C = (-np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)
    expected = np.multiply(BYTES_BCHW.numpy(), slope_C[:, None, None], dtype=np.float32) + offset_C[:, None, None]
    assert np.array_equal(normalise(BYTES_BCHW).numpy(), expected)


def test_floats_are_normalised_already() -> None:
    view_BCHW = torch.randn(2, 3, 4, 4)
    assert normalise(view_BCHW) is view_BCHW
