"""Unusual and damaged audio files are read, or refused with the right reason and no other exception. Scanning and decoding agree."""

import io
import random
import struct

import numpy as np
import pytest
import soundfile

from recipes.data.audio import decode_audio, scan_audio
from recipes.data.manifest import Segment
from recipes.data.media import UndecodableError
from tests.recipes.data.recordings import RATE, encode, noise


def known_kinds() -> list[tuple[str, str]]:
    """Every container and codec that libsndfile writes with a header."""
    kinds = [kind for kind in soundfile.available_formats() if kind not in ("RAW", "SD2")]
    return [(kind, subtype) for kind in kinds for subtype in soundfile.available_subtypes(kind)]


def encoded_in_each() -> dict[tuple[str, str], bytes]:
    files = {}
    for kind, subtype in known_kinds():
        try:
            files[kind, subtype] = encode(noise(4_800), kind, subtype=subtype)
        except (soundfile.SoundFileError, ValueError):
            continue  # libsndfile only reads this format
    return files


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "GSM610"), ("WAV", "NMS_ADPCM_32"), ("WAV", "G721_32"), ("AIFF", "GSM610")])
def test_formats_that_cannot_seek_are_read(kind: str, subtype: str) -> None:
    content = encode(noise(32_000), kind, subtype=subtype)
    whole = decode_audio(content, RATE)
    assert len(whole) == scan_audio(content, RATE) >= 32_000
    np.testing.assert_array_equal(decode_audio(content, RATE, Segment(0.5, 0.25)), whole[8_000:12_000])


def with_length(content: bytes, num_bytes: int, outer: int | None = None) -> bytes:
    """A .wav whose data chunk claims that many bytes."""
    changed = bytearray(content)
    struct.pack_into("<I", changed, content.index(b"data") + 4, num_bytes)
    if outer is not None:
        struct.pack_into("<I", changed, 4, outer)
    return bytes(changed)


@pytest.mark.parametrize("extra", [2, 8, 36, 44])
def test_a_wav_whose_length_counts_headers_is_read(extra: int) -> None:
    whole = encode(noise(32_000))
    for content in (with_length(whole, 64_000 + extra), with_length(whole, 64_000 + extra, len(whole))):
        np.testing.assert_array_equal(decode_audio(content, RATE), decode_audio(whole, RATE))
        assert scan_audio(io.BytesIO(content), RATE) == 32_000


@pytest.mark.parametrize("missing", [1, 44, 45, 30_000])
def test_a_wav_that_is_cut_off_is_refused(missing: int) -> None:
    for read in (scan_audio, decode_audio):
        with pytest.raises(UndecodableError, match=f"truncated: {64_000 - missing} of 64000 bytes"):
            read(encode(noise(32_000))[:-missing], RATE)
        with pytest.raises(UndecodableError, match="truncated: 64000 of 64046 bytes"):
            read(with_length(encode(noise(32_000)), 64_046), RATE)


@pytest.mark.parametrize("kind", ["AIFF", "AU"])
def test_other_containers_that_are_cut_off_are_refused(kind: str) -> None:
    with pytest.raises(UndecodableError, match="truncated: "):
        scan_audio(encode(noise(32_000), kind)[:-20_000], RATE)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_a_segment_is_that_part_of_the_recording(kind: str, rate: int) -> None:
    content = encode(noise(2 * rate), kind, rate=rate)
    whole = decode_audio(content, rate)
    for segment, first, end in [
        (Segment(0, 0.5), 0, 0.5),
        (Segment(0.5, 0.25), 0.5, 0.75),
        (Segment(1.5), 1.5, 2),
        (Segment(1, 1.05), 1, 2),
    ]:
        part = decode_audio(io.BytesIO(content), rate, segment)
        np.testing.assert_array_equal(part, whole[round(first * rate) : round(end * rate)])
        assert scan_audio(content, rate, segment) == len(part)
    assert scan_audio(content, RATE, Segment(0.5, 0.25)) == len(decode_audio(content, RATE, Segment(0.5, 0.25)))


NO_SEGMENTS = [(2.0, 0.5), (1.0, 1.2), (-1.0, 0.5), (0.5, 0.0), (0.5, -1), (3,), (float("nan"), 1), (0, float("inf"))]


@pytest.mark.parametrize("seconds", NO_SEGMENTS)
def test_a_segment_outside_the_recording_is_refused(seconds: tuple[float, ...]) -> None:
    content = encode(noise(2 * RATE))
    for read in (scan_audio, decode_audio):
        with pytest.raises(UndecodableError, match=r"s is not within its 2 s"):
            read(content, RATE, Segment(*seconds))


def damage(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content[: rng.randint(1, len(content))] if rng.random() < 0.4 else content)
    for _ in range(rng.randint(0, 5)):
        damaged[rng.randrange(min(len(damaged), rng.choice((64, len(damaged)))))] = rng.randrange(256)
    return bytes(damaged)


def length_or_none(read: object, content: bytes, segment: Segment | None) -> int | None:
    try:
        found = read(content, RATE, segment)  # type: ignore[operator]
    except UndecodableError as error:
        assert "\n" not in str(error) and "object at" not in str(error)
        return None
    return found if isinstance(found, int) else len(found)


def fuzz(num_each: int, seed: int) -> None:
    rng, num_read = random.Random(seed), 0
    for content in encoded_in_each().values():
        for _ in range(num_each):
            damaged, segment = damage(content, rng), rng.choice((None, None, Segment(0.1, 0.1)))
            scanned, decoded = (length_or_none(read, damaged, segment) for read in (scan_audio, decode_audio))
            assert decoded is None or decoded == scanned
            num_read += decoded is not None
    assert num_read > 20, "some damage is harmless"


def test_damage_to_any_container_raises_no_other_error_and_lengths_agree(capfd: pytest.CaptureFixture[str]) -> None:
    fuzz(4, 0)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_damage_to_any_container_raises_no_other_error_in_ten_thousand_tries() -> None:
    fuzz(70, 1)
