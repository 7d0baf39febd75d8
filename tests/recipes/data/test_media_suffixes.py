"""Suffixes: every format that a decoder supports is read, or is in the list of the formats that are not accepted."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from recipes.data import audio, images
from recipes.data.audio import decode_audio, scan_audio
from recipes.data.images import decode_image
from tests.recipes.data.recordings import RATE, encode, noise


def encoded(kind: str) -> bytes:
    """Random colours, 40 x 30."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def test_every_format_of_the_decoder_is_in_one_of_the_two_lists() -> None:
    """A new release of libsndfile may support more formats. Then this test fails, and a developer adds each to one of the lists."""
    assert soundfile.available_formats().keys() <= audio.FORMATS.keys() | set(audio.OTHER_FORMATS)
    assert not audio.FORMATS.keys() & set(audio.OTHER_FORMATS)


@pytest.mark.parametrize("kind", sorted(audio.FORMATS))
def test_every_listed_format_is_decoded_and_its_suffixes_are_recordings(kind: str) -> None:
    content = encode(noise(5000), kind)
    assert len(decode_audio(content, RATE)) == scan_audio(content, RATE) == 5000
    assert set(audio.FORMATS[kind]) <= set(audio.AUDIO.suffixes)


def test_opus_is_decoded_and_its_suffix_is_a_recording() -> None:
    assert len(decode_audio(encode(noise(5000), "ogg", subtype="OPUS"), RATE)) == 5000 and ".opus" in audio.AUDIO.suffixes


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_listed_format_is_decoded_and_its_suffixes_are_images(kind: str) -> None:
    assert decode_image(encoded(kind)).size == (40, 30)
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name == kind}
    assert suffixes and suffixes <= {*images.IMAGES.suffixes, *images.FLOAT_SUFFIXES}


def test_common_suffixes_are_images_and_unusual_ones_are_not() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".gif", ".avif", ".jp2", ".jfif"} <= set(images.IMAGES.suffixes)
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".psd", ".pfm", ".heic"} & set(images.IMAGES.suffixes)
