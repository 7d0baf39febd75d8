"""Images: formats that Pillow opens become RGB, other files are refused with the reason. Views follow torchvision, rewritten here."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from recipes.data.images import center_view, check_views, color_jitter, decode_image, pixels_of, random_crop_box, random_view
from recipes.data.media import UndecodableError
from recipes.data_config import VisionDataConfig
from recipes.errors import ConfigError

PLAIN = VisionDataConfig(color_jitter=0.0, flip_prob=0.0, crop_scale=(1.0, 1.0))
GREY_OF_RGB = np.array([19595, 38470, 7471]) / 65536  # ITU-R 601, as Pillow's convert("L")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Random colours."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generator(seed: int = 0) -> np.random.Generator:
    """A new generator."""
    return np.random.Generator(np.random.Philox(seed))


def pixels(image: Image.Image) -> np.ndarray:
    """(H, W, C) as int64, so that differences do not overflow."""
    return np.asarray(image).astype(np.int64)


def png_without_pixels(width: int, height: int) -> bytes:
    """A PNG whose header claims that size and whose pixel data are empty."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)


def test_a_lossless_picture_is_decoded_unchanged() -> None:
    image = decode_image(encoded(noise()))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(pixels(image), pixels(noise()))


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    original = Image.new("RGB", (16, 16), (200, 60, 20))
    image = decode_image(encoded(original.convert("CMYK"), "JPEG", quality=95))
    assert abs(pixels(image) - pixels(original)).max() <= 4


def test_palette_pictures_are_decoded_to_their_colours() -> None:
    image = decode_image(encoded(noise().quantize(256), "GIF"))
    np.testing.assert_array_equal(pixels(image), pixels(noise().quantize(256).convert("RGB")))


def test_transparent_pixels_become_white_whatever_their_hidden_colour() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 255, 255))
    rgb_key = Image.new("RGB", (2, 1), (255, 0, 0))
    rgb_key.putpixel((1, 0), (0, 0, 255))
    contents = [
        encoded(palette, transparency=0),
        encoded(palette, transparency=b"\x00\xff"),
        encoded(rgba),
        encoded(rgb_key, transparency=(255, 0, 0)),
    ]
    for content in contents:
        assert pixels(decode_image(content)).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    half = Image.new("LA", (1, 1), (0, 128))
    assert pixels(decode_image(encoded(half)))[0, 0].tolist() == [127, 127, 127]


def test_grey_and_bilevel_pictures_have_three_equal_channels() -> None:
    grey = noise().convert("L")
    for image in (grey, grey.convert("1")):
        decoded = pixels(decode_image(encoded(image)))
        np.testing.assert_array_equal(decoded, np.repeat(pixels(image.convert("L"))[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    levels = np.array([[0, 128, 129, 257 * 100, 40000, 65535]], dtype=np.uint16)
    decoded = pixels(decode_image(encoded(Image.fromarray(levels), kind)))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 100, 156, 255]
    assert (decoded == decoded[:, :, :1]).all()


def test_a_picture_of_one_pixel_is_decoded() -> None:
    image = decode_image(encoded(Image.new("RGB", (1, 1), (124, 116, 104))))
    np.testing.assert_array_equal(center_view(image, 32), np.broadcast_to(np.array([[[124]], [[116]], [[104]]]), (3, 32, 32)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 1)])
def test_extreme_shapes_have_both_views(size: tuple[int, int]) -> None:
    for view in (random_view(noise(*size), 16, VisionDataConfig(), generator()), center_view(noise(*size), 16)):
        assert view.shape == (3, 16, 16) and view.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    steps = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = steps.get(orientation, lambda a: a)(pixels(noise()))
    np.testing.assert_array_equal(pixels(decode_image(encoded(noise(), exif=exif))), expected)


@pytest.mark.parametrize("exif", [b"neither Exif nor TIFF", b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_are_ignored(exif: bytes) -> None:
    np.testing.assert_array_equal(pixels(decode_image(encoded(noise(), exif=exif))), pixels(noise()))


def test_an_animation_gives_its_first_frame() -> None:
    content = encoded(Image.new("RGB", (4, 4), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert pixels(decode_image(content))[0, 0].tolist() == [255, 0, 0]


JPEG = encoded(noise(), "JPEG")
BAD = {
    "empty": (b"", "empty file"),
    "text": (b"this is no picture\n" * 20, "not an image of a known kind"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg header only": (JPEG[:30], "(?s)."),
    "truncated png": (encoded(noise())[:-300], "(?s)."),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image of a known kind"),
    "float tiff": (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "floating-point"),
    "32-bit tiff": (encoded(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"), "32-bit pixels .70000 to 70000."),
}


@pytest.mark.parametrize("name", BAD)
def test_an_incomplete_or_unsupported_picture_is_undecodable(name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(UndecodableError, match=reason) as caught:
        decode_image(content)
    assert str(caught.value) and "\n" not in str(caught.value) and " at 0x" not in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@given(st.integers(0, 400), st.integers(0, 255), st.integers(20, 2000))
def test_damaged_bytes_are_decoded_or_undecodable(position: int, value: int, length: int) -> None:
    content = bytearray(JPEG[:length])
    content[position % len(content)] = value
    try:
        assert decode_image(bytes(content)).mode == "RGB"
    except UndecodableError as error:
        assert str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])  # between Pillow's warning and its error, and beyond
def test_a_decompression_bomb_is_undecodable(side: int) -> None:
    with pytest.raises(UndecodableError, match="pixels"):
        decode_image(png_without_pixels(side, side))


def test_an_array_has_the_pictures_bytes_colour_by_colour() -> None:
    view_CHW = pixels_of(noise())
    assert view_CHW.dtype == np.uint8 and view_CHW.flags.c_contiguous
    np.testing.assert_array_equal(view_CHW, pixels(noise()).transpose(2, 0, 1))


def _blend(pixels_HWC: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    return np.floor(np.clip(other + factor * (pixels_HWC - other), 0, 255))


def _jittered(pixels_HWC: np.ndarray, order: list[int], factors: list[float]) -> np.ndarray:
    for number in order:
        grey_HW1 = np.floor(pixels_HWC @ GREY_OF_RGB + 0.5)[:, :, None]
        other = (np.zeros(1), np.floor(grey_HW1.mean() + 0.5), grey_HW1)[number]
        pixels_HWC = _blend(pixels_HWC, other, factors[number])
    return pixels_HWC


@pytest.mark.parametrize("seed", range(12))
def test_color_jitter_follows_its_formula_within_3_of_255(seed: int) -> None:
    rng = generator(seed)
    order, factors = rng.permutation(3).tolist(), rng.uniform(0.6, 1.4, 3).tolist()
    expected = _jittered(pixels(noise()).astype(float), order, factors)
    difference = abs(pixels(color_jitter(noise(), 0.4, generator(seed))) - expected)
    assert difference.max() <= 3 and difference.mean() < 0.3  # roundings of three steps


def test_color_jitter_draws_every_order_and_the_whole_range() -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))  # only brightness changes a uniform grey
    levels = [pixels(color_jitter(grey, 0.4, generator(seed)))[0, 0, 0] for seed in range(300)]
    assert 59 <= min(levels) < 64 and 136 < max(levels) <= 140
    assert abs(np.mean(levels) - 100) < 4
    results = {encoded(color_jitter(noise(), 2.0, generator(seed))) for seed in range(20)}  # factors below 0 are cut off
    assert len(results) == 20


def test_without_jitter_colours_stay_and_flips_and_crops_are_the_same() -> None:
    rng, other = generator(5), generator(5)
    np.testing.assert_array_equal(pixels(color_jitter(noise(), 0.0, rng)), pixels(noise()))
    color_jitter(noise(), 0.4, other)
    assert rng.random() == other.random()


sides, shares = st.integers(1, 600), st.floats(0.01, 1.0)


@given(sides, sides, shares, shares, st.integers(0, 2**32))
def test_a_crop_lies_within_the_picture(width: int, height: int, one: float, other: float, seed: int) -> None:
    left, upper, right, lower = random_crop_box(width, height, (min(one, other), max(one, other)), generator(seed))
    assert 0 <= left < right <= width and 0 <= upper < lower <= height


def test_crops_have_the_requested_areas_and_ratios_and_reach_every_corner() -> None:
    rng, size = generator(), 400
    boxes = np.array([random_crop_box(size, size, (0.08, 1.0), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, log_ratios = widths * heights / size**2, np.log(widths / heights)
    assert 0.079 < areas.min() < 0.09 and areas.max() > 0.95 and abs(np.log(4 / 3) - abs(log_ratios).max()) < 0.02
    small = areas < 0.4  # where every ratio fits: log-uniform and uniform
    assert abs(log_ratios[small].mean()) < 0.02 and abs(np.quantile(log_ratios[small], 0.75) - np.log(4 / 3) / 2) < 0.02
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0 and boxes[:, 2].max() == boxes[:, 3].max() == size
    assert abs((boxes[small, 0] + boxes[small, 2]).mean() / 2 - size / 2) < 6
    assert {random_crop_box(3, 3, (1 / 9, 1 / 9), rng)[:2] for _ in range(200)} == {(x, y) for x in range(3) for y in range(3)}


@pytest.mark.parametrize(("size", "box"), [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56)), ((100, 100), (0, 0, 100, 100))])
def test_a_crop_that_never_fits_is_the_largest_central_one(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    class Unlucky:
        """Always draws the largest number, which gives a crop too wide for the picture."""

        def uniform(self, low: float, high: float) -> float:
            return high

    assert random_crop_box(*size, (1.0, 1.0), Unlucky()) == box


def test_a_random_view_is_jitter_then_flip_then_crop_bit_for_bit() -> None:
    data = VisionDataConfig(crop_scale=(0.2, 0.7))
    flips = set()
    for seed in range(10):
        rng = generator(seed)
        image = color_jitter(noise(), 0.4, rng)
        flips.add(is_flipped := rng.random() < 0.5)
        if is_flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop = image.crop(random_crop_box(40, 30, (0.2, 0.7), rng))
        expected = pixels_of(crop.resize((24, 24), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(random_view(noise(), 24, data, generator(seed)), expected)
    assert flips == {True, False}


def test_without_randomness_a_view_is_the_whole_picture() -> None:
    square = noise(30, 30)
    np.testing.assert_array_equal(random_view(square, 30, PLAIN, generator(1)), pixels_of(square))
    flipped = VisionDataConfig(color_jitter=0.0, flip_prob=1.0, crop_scale=(1.0, 1.0))
    np.testing.assert_array_equal(random_view(square, 30, flipped, generator(1)), pixels_of(square)[:, :, ::-1])


@pytest.mark.parametrize("size", [(128, 128), (128, 192), (192, 128)])
def test_a_central_view_is_resize_then_central_crop_within_2_of_255(size: tuple[int, int]) -> None:
    image = noise(*size)
    resized = image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BICUBIC)  # 128 -> 64 = 56 * 256/224
    left, upper = (resized.width - 56) // 2, (resized.height - 56) // 2
    expected = pixels_of(resized.crop((left, upper, left + 56, upper + 56)))
    assert abs(center_view(image, 56).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (VisionDataConfig(crop_scale=(0.0, 1.0)), "crop_scale 0,1 "),
        (VisionDataConfig(crop_scale=(0.5, 0.2)), "crop_scale 0.5,0.2 "),
        (VisionDataConfig(crop_scale=(0.5, 1.2)), "crop_scale 0.5,1.2 "),
        (VisionDataConfig(color_jitter=-0.1), "color_jitter -0.1 "),
        (VisionDataConfig(flip_prob=1.5), "flip_prob 1.5 "),
    ],
)
def test_settings_of_the_view_that_are_out_of_range_are_refused(data: VisionDataConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{message}"):
        check_views(data)
