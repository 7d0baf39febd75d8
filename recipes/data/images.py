"""Decodes image files to RGB pictures, and makes arrays of pixels of them: the random view of pre-training and the fixed view of
evaluation. The front-end normalises them (model/frontends/pixels.py). Every random number comes from the caller's generator. Data sets are
opened in media_source.py, seeds are set in vision.py.

Shapes: C 3 colours (red, green, blue), H = W = image_size pixels.
"""

import io
import math
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageEnhance, ImageOps, UnidentifiedImageError

from recipes.data.media import MediaKind, UndecodableError, decoding
from recipes.data_config import VisionDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledVisionDataConfig

Image.init()
FORMATS = tuple(sorted({"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP"} & Image.OPEN.keys()))
"""Accepted image formats, by Pillow's names, if this build of Pillow supports them. Pillow's rarer formats are left out: EPS, for example,
would run Ghostscript."""
FLOAT_SUFFIXES = (".pfm",)
"""File suffixes of accepted formats that are left out all the same, because decode_image refuses their floating-point pixels."""
IMAGES = MediaKind(
    name="image",
    suffixes=tuple(sorted(s for s, name in Image.registered_extensions().items() if name in FORMATS and s not in FLOAT_SUFFIXES)),
    sample=Path(__file__).resolve().parents[1] / "samples" / "vision",
)
CROP_RATIO = (3 / 4, 4 / 3)
"""Width / height of a random crop (torchvision's RandomResizedCrop)."""
CROP_ATTEMPTS = 10
DRAFT_MARGIN = 2
"""A crop of a picture that was reduced while decoding is at least this many times as wide and high as its view. So bicubic resampling still
averages several pixels, as without reduction."""
JITTER = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
UPRIGHT, QUARTER_TURNS = 1, range(5, 9)
"""EXIF orientation of a picture that need not be turned, and of those whose width becomes their height."""
EXIF_ERRORS = (SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error)
"""What Pillow raises for damaged EXIF data."""
EVAL_CROP_RATIO = 224 / 256
"""Share of the shorter side that center_view keeps (evaluation on ImageNet)."""
Box = tuple[int, int, int, int]
"""left, upper, right, lower, in pixels; right and lower are exclusive."""


def check_views(data: VisionDataConfig) -> None:
    """Check the settings of the random view: crop_scale, color_jitter and flip_prob. Raises: ConfigError if one is out of range."""
    check_crop_scale(data.crop_scale)
    if not data.color_jitter >= 0:
        raise ConfigError(f"data.color_jitter {data.color_jitter:g} is below 0; the published one is 0.4, and 0 leaves colours alone")
    if not 0 <= data.flip_prob <= 1:
        raise ConfigError(f"data.flip_prob {data.flip_prob:g} is not in [0, 1]; the published one is 0.5")


def check_crop_scale(crop_scale: tuple[float, float]) -> None:
    """Check that crop_scale is a range of shares. Raises: ConfigError if it is not."""
    low, high = crop_scale
    if not 0 < low <= high <= 1:
        raise ConfigError(f"data.crop_scale {low:g},{high:g} is no range within (0, 1]; the published one is 0.08,1")


def decode_image(content: bytes, reduction: int = 1) -> Image.Image:
    """Decode the bytes of an image file to an RGB picture with 8 bits per channel.

    `reduction` 2, 4 or 8: a JPEG is decoded to that part of its width and height, which takes less time (Image.draft). Other formats are
    decoded whole.

    The EXIF orientation is applied. Transparent pixels are put on white. Only the first frame of an animation is decoded. 16-bit grey is
    scaled by 1/257, not clipped.
    Raises: UndecodableError if this is not a complete image of a known format, or if it has more pixels than Pillow's limit.
    """
    if not content:
        raise UndecodableError("empty file")
    with decoding():
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise UndecodableError(f"not an image of a known kind ({', '.join(FORMATS)})") from error
        with image:
            _check_num_pixels(image)
            if reduction > 1:
                image.draft(None, (max(1, image.width // reduction), max(1, image.height // reduction)))
            image.load()
            return to_rgb(upright(image))


def upright_size(content: bytes) -> tuple[int, int]:
    """Return width and height of an image file as decode_image turns it, read from its header. Raises: UndecodableError if this is no image
    of a known format."""
    with decoding(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in QUARTER_TURNS else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF orientation says. Damaged EXIF data are ignored."""
    if _orientation(image) != UPRIGHT:
        with suppress(*EXIF_ERRORS):
            return ImageOps.exif_transpose(image)
    return image  # and no copy, which exif_transpose would make


def _orientation(image: Image.Image) -> int:
    with suppress(*EXIF_ERRORS):
        return int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
    return UPRIGHT


class RandomView(NamedTuple):
    """The random numbers of one view of a picture."""

    order: tuple[int, ...]
    """The changes of colour in their order: 0 brightness, 1 contrast, 2 saturation; () if colours are left alone."""
    factors: tuple[float, ...]
    """Factor of brightness, contrast and saturation."""
    is_flipped: bool
    box: Box
    """The crop, in the picture before it is flipped."""

    def scaled(self, before: tuple[int, int], after: tuple[int, int]) -> "RandomView":
        """Return the same view of the picture in another size. The box is rounded to whole pixels, at least one. Sizes are (width,
        height)."""
        left, upper, right, lower = (round(edge * after[side % 2] / before[side % 2]) for side, edge in enumerate(self.box))
        left, upper = min(left, after[0] - 1), min(upper, after[1] - 1)
        return self._replace(box=(left, upper, max(right, left + 1), max(lower, upper + 1)))


def draw_view(width: int, height: int, data: VisionDataConfig, rng: np.random.Generator) -> RandomView:
    """Draw a random view of a picture of width x height pixels for pre-training. All random numbers are drawn also for what is switched
    off. So a run without jitter gets the same flips and crops."""
    order, factors = _draw_jitter(data.color_jitter, rng)
    is_flipped, box = _draw_crop(width, height, data, rng)
    return RandomView(order if data.color_jitter > 0 else (), factors, is_flipped, box)


def reduction_for(view: RandomView, size: int) -> int:
    """Return by which factor 1, 2, 4 or 8 a picture may be reduced before this view of size x size pixels is made of it: the largest that
    leaves the crop at least DRAFT_MARGIN times as wide and high as the view."""
    left, upper, right, lower = view.box
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(right - left, lower - upper) >= factor * DRAFT_MARGIN * size)


def view_pixels(image: Image.Image, view: RandomView, size: int) -> np.ndarray:
    """Return that view of the picture: colour jitter, then flip, then a crop resized to size x size.

    Shapes: uint8 (C, H, W).
    Source: data2vec_vision beit/datasets.py (the order), torchvision (each step).
    """
    return pixels_of(_cut(_jittered(image, view.order, view.factors), size, view.is_flipped, view.box))


def random_view(image: Image.Image, size: int, data: VisionDataConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw a random view of the picture for pre-training, and return it. Shapes: uint8 (C, H, W)."""
    return view_pixels(image, draw_view(image.width, image.height, data, rng), size)


def flipped_crop(image: Image.Image, size: int, data: VisionDataConfig | LabelledVisionDataConfig, rng: np.random.Generator) -> Image.Image:
    """Return a random crop of the picture, resized to size x size pixels and flipped with the probability flip_prob. Flip draws its random
    number also if it is switched off."""
    return _cut(image, size, *_draw_crop(image.width, image.height, data, rng))


def _draw_crop(width: int, height: int, data: VisionDataConfig | LabelledVisionDataConfig, rng: np.random.Generator) -> tuple[bool, Box]:
    is_flipped = bool(rng.random() < data.flip_prob)
    left, upper, right, lower = random_crop_box(width, height, data.crop_scale, rng)
    if is_flipped:  # flip the crop instead of the whole picture: the same result with fewer pixels
        left, right = width - right, width - left
    return is_flipped, (left, upper, right, lower)


def _cut(image: Image.Image, size: int, is_flipped: bool, box: Box) -> Image.Image:
    crop = image.crop(box)
    if is_flipped:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return crop.resize((size, size), Image.Resampling.BICUBIC)


def center_view(image: Image.Image, size: int) -> np.ndarray:
    """Return the fixed view of evaluation: the shorter side is resized to size * 256/224, then the central size x size pixels are cut out.

    Shapes: uint8 (C, H, W).
    """
    side = min(image.size) * size / round(size / EVAL_CROP_RATIO)
    left, upper = (image.width - side) / 2, (image.height - side) / 2
    # Crop and resize in one step. If a picture of 1 x 10000 pixels were resized first, it would become huge.
    return pixels_of(image.resize((size, size), Image.Resampling.BICUBIC, box=(left, upper, left + side, upper + side)))


def color_jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Return the picture with brightness, contrast and saturation changed in random order. Each of the three has its own random factor
    between 1 - strength (or 0 if that is negative) and 1 + strength. With strength 0 the picture is returned unchanged.

    Contrast scales how far each pixel is from the mean grey of the picture as changed so far. Saturation scales how far each pixel is from
    its own grey.
    Source: torchvision's ColorJitter on PIL images.
    """
    order, factors = _draw_jitter(strength, rng)
    return _jittered(image, order if strength > 0 else (), factors)


def _draw_jitter(strength: float, rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[float, ...]]:
    order = rng.permutation(len(JITTER)).tolist()
    return tuple(order), tuple(rng.uniform(max(0.0, 1 - strength), 1 + strength, len(JITTER)).tolist())


def _jittered(image: Image.Image, order: tuple[int, ...], factors: tuple[float, ...]) -> Image.Image:
    for number in order:
        image = JITTER[number](image).enhance(factors[number])
    return image


def random_crop_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """Return a random box (left, upper, right, lower) in a picture of width x height pixels. The share of the picture's area that it covers
    is uniform between the two values of `scale`. Its ratio width / height is log-uniform between 3/4 and 4/3 (CROP_RATIO).

    At most ten boxes are drawn. If none of them fits into the picture, return the largest central box whose ratio is within CROP_RATIO.
    Source: torchvision's RandomResizedCrop.get_params.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, round(height * CROP_RATIO[1]))
    h = min(height, round(width / CROP_RATIO[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return the bytes of an RGB picture. Shapes: uint8 (C, H, W), contiguous."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _check_num_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS  # above it Pillow only warns; it raises from twice the limit on
    if limit is not None and image.width * image.height > limit:
        raise UndecodableError(f"{image.width} x {image.height} pixels, at most {limit} in all")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture as RGB with 8 bits per channel. Transparent pixels are put on white, 16-bit grey is scaled by 1/257. Raises:
    UndecodableError for pixels whose range is unknown."""
    if image.mode == "F":
        raise UndecodableError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    # RGB is copied too, because the object of an opened file keeps a reference to the file.
    return image.convert("RGB")


def _from_16_bit(pixels_HW: np.ndarray) -> Image.Image:
    if pixels_HW.min() < 0 or pixels_HW.max() > 65535:
        raise UndecodableError(f"32-bit pixels ({pixels_HW.min()} to {pixels_HW.max()}), at most 16 bits")
    return Image.fromarray(((pixels_HW.astype(np.int64) + 128) // 257).astype(np.uint8)).convert("RGB")
