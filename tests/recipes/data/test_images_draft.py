"""Draft decoding: JPEGs at a part of their size, and views of them."""

import numpy as np
import pytest
from PIL import Image

from recipes.data.images import RandomView, decode_image, draw_view, reduction_for, upright_size, view_pixels
from recipes.data.media import UndecodableError
from recipes.data_config import VisionDataConfig
from tests.recipes.data.test_images import encoded, generator


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours."""
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("reduction", "size"), [(1, (640, 480)), (2, (320, 240)), (4, (160, 120)), (8, (80, 60))])
def test_a_jpeg_is_decoded_at_a_part_of_its_size_and_other_formats_whole(reduction: int, size: tuple[int, int]) -> None:
    assert decode_image(encoded(photograph(640, 480), "JPEG"), reduction).size == size
    assert decode_image(encoded(photograph(640, 480), "PNG"), reduction).size == (640, 480)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_of_a_file_is_that_of_the_picture_after_turning(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photograph(64, 48), "JPEG", exif=exif)
    assert upright_size(content) == decode_image(content).size == ((48, 64) if orientation == 6 else (64, 48))
    with pytest.raises(UndecodableError):
        upright_size(b"nothing")


@pytest.mark.parametrize(("side", "reduction"), [(100, 1), (127, 1), (128, 2), (255, 2), (256, 4), (512, 8), (5000, 8)])
def test_a_reduced_crop_stays_twice_as_large_as_its_view(side: int, reduction: int) -> None:
    assert reduction_for(RandomView((), (), False, (7, 3, 7 + side, 3 + side + 50)), 32) == reduction


def test_a_view_of_a_reduced_photograph_differs_by_less_than_2_of_255_on_average() -> None:
    content, data = encoded(photograph(1600, 1200), "JPEG", quality=90), VisionDataConfig(crop_scale=(0.3, 1.0))
    for seed in range(6):
        view = draw_view(1600, 1200, data, generator(seed))
        reduction = reduction_for(view, 64)
        image = decode_image(content, reduction)
        reduced = view_pixels(image, view.scaled((1600, 1200), image.size), 64)
        whole = view_pixels(decode_image(content), view, 64)
        assert reduction >= 4 and abs(reduced.astype(int) - whole).mean() < 2


def test_a_scaled_box_stays_within_the_picture_and_is_not_empty() -> None:
    view = RandomView((), (), True, (99, 99, 100, 100))
    assert view.scaled((100, 100), (13, 13)).box == (12, 12, 13, 13)
    assert view.scaled((100, 100), (100, 100)) == view
    whole = view._replace(box=(0, 0, 100, 100))
    assert whole.scaled((100, 100), (13, 7)).box == (0, 0, 13, 7)
