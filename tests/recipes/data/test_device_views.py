"""Views made on the device: the pixels that Pillow makes of the same random numbers, in any partition, and the same distribution."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.data import device_views
from recipes.data.device_views import DeviceViews, build_views, cut, jittered
from recipes.data.images import JITTER, RandomView, draw_view, view_pixels
from recipes.data_config import VisionDataConfig
from tests.recipes.data.test_images import generator, noise

SIZE = 48
PUBLISHED = VisionDataConfig()


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours with edges, from black to white."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((255, 255, 255), (width // 3, height // 3, width // 2, height // 2))
    return image


def draw(pictures: list[Image.Image], data: VisionDataConfig = PUBLISHED, seed: int = 0) -> list[RandomView]:
    return [draw_view(picture.width, picture.height, data, generator(seed + number)) for number, picture in enumerate(pictures)]


def on_device(pictures: list[Image.Image], views: list[RandomView], size: int = SIZE) -> np.ndarray:
    """Return the views as the device makes them, int64 (B, C, H, W). The device is the CPU here."""
    pixels, unfinished = build_views([np.asarray(picture) for picture in pictures], views, size)
    assert pixels.dtype == torch.uint8 and len(pixels) == sum(picture.width * picture.height for picture in pictures)
    views_BCHW = unfinished.finish(pixels)
    assert views_BCHW.dtype == torch.uint8 and views_BCHW.shape == (len(pictures), 3, size, size)
    return views_BCHW.numpy().astype(int)


def by_pillow(pictures: list[Image.Image], views: list[RandomView], size: int = SIZE) -> np.ndarray:
    return np.stack([view_pixels(picture, view, size) for picture, view in zip(pictures, views, strict=True)]).astype(int)


@pytest.mark.parametrize("kind", [photograph, noise])
def test_the_same_random_numbers_give_pillows_pixels_within_1_of_255(kind: Any) -> None:
    pictures = [kind(40 + 9 * seed, 150 - 7 * seed, seed) for seed in range(16)]  # views of smaller and of larger crops
    views = draw(pictures)
    assert {view.is_flipped for view in views} == {True, False} and len({view.order for view in views}) > 3
    difference = abs(on_device(pictures, views) - by_pillow(pictures, views))
    assert difference.max() <= 1 and difference.mean() < 0.02


def test_colours_alone_are_pillows_but_for_one_pixel_in_ten_thousand() -> None:
    pictures = [noise(60, 50, seed) for seed in range(8)]
    views = [view._replace(box=(0, 0, 60, 50), is_flipped=False) for view in draw(pictures)]
    pixels, unfinished = build_views([np.asarray(picture) for picture in pictures], views, 0)
    changed = jittered(pixels.float(), unfinished.counts_B, unfinished.order_B3, unfinished.factors_B3).numpy()
    for number, (picture, view) in enumerate(zip(pictures, views, strict=True)):
        expected = np.asarray(_jittered_by_pillow(picture, view)).reshape(-1, 3)
        difference = abs(changed[number * 3000 : (number + 1) * 3000] - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4


def _jittered_by_pillow(picture: Image.Image, view: RandomView) -> Image.Image:
    for kind in view.order:
        picture = JITTER[kind](picture).enhance(view.factors[kind])
    return picture


def test_without_jitter_colours_stay() -> None:
    data = VisionDataConfig(color_jitter=0.0)
    pictures = [photograph(70, 60, seed) for seed in range(4)]
    views = draw(pictures, data)
    assert {view.order for view in views} == {()}
    assert abs(on_device(pictures, views) - by_pillow(pictures, views)).max() <= 1


def test_a_crop_of_the_size_of_the_view_is_cut_out_unchanged() -> None:
    picture_HWC = torch.from_numpy(np.asarray(noise(60, 50)).copy()).float()
    view_CHW = cut(picture_HWC, (5, 2, 53, 50), False, 48)
    assert torch.equal(view_CHW, picture_HWC[2:50, 5:53].permute(2, 0, 1).to(torch.uint8))
    assert torch.equal(cut(picture_HWC, (5, 2, 53, 50), True, 48), view_CHW.flip(2))


def test_the_views_do_not_depend_on_the_parts_in_which_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [photograph(30 + seed, 40, seed) for seed in range(7)]
    views = draw(pictures)
    whole = on_device(pictures, views)
    for pixels in (1, 1300, 4000):
        monkeypatch.setattr(device_views, "PART_PIXELS", pixels)
        assert np.array_equal(on_device(pictures, views), whole)


def test_parts_are_as_large_as_allowed_and_hold_one_picture_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_views, "PART_PIXELS", 10)
    none: Any = None
    views = DeviceViews(((3, 3), (1, 1), (1, 1), (20, 1), (2, 2)), none, none, none, none, none, 4)
    assert [(part.start, part.stop) for part in views._parts()] == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_statistics_of_many_views_are_those_of_pillows_within_a_fifth_of_a_level() -> None:
    """Mean and spread of each colour over 300 views of one picture, drawn with the same settings by other seeds."""
    picture = photograph(90, 70, 1)
    pictures = [picture] * 300
    made = on_device(pictures, draw(pictures), 16)
    same_draws = by_pillow(pictures, draw(pictures), 16)
    assert abs(made.mean((0, 2, 3)) - same_draws.mean((0, 2, 3))).max() < 0.2
    assert abs(made.std((0, 2, 3)) - same_draws.std((0, 2, 3))).max() < 0.2
    others = by_pillow(pictures, draw(pictures, seed=1000), 16)
    error = np.hypot(made.mean((2, 3)).std(0), others.mean((2, 3)).std(0)) / len(pictures) ** 0.5
    assert (abs(made.mean((0, 2, 3)) - others.mean((0, 2, 3))) < 4 * error).all()


@pytest.mark.gpu
def test_on_a_gpu_the_pixels_are_pillows_within_1_of_255() -> None:
    pictures = [photograph(300 + 9 * seed, 250, seed) for seed in range(16)]
    views = draw(pictures)
    pixels, unfinished = build_views([np.asarray(picture) for picture in pictures], views, 224)
    moved = DeviceViews(**{**vars(unfinished), **{n: getattr(unfinished, n).cuda() for n in ("counts_B", "order_B3", "factors_B3")}})
    assert abs(moved.finish(pixels.cuda()).cpu().numpy().astype(int) - by_pillow(pictures, views, 224)).max() <= 1
