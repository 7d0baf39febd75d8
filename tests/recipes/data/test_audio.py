"""Decoding of audio: the waveform has the requested rate and one channel, and every kind of damage is refused with its reason."""

import io
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.audio import AUDIO, decode_audio, decode_crop, normalize, scan_audio
from recipes.data.manifest import Segment
from recipes.data.media import UndecodableError
from recipes.data.resampling import Crop
from tests.recipes.data.recordings import RATE, encode, noise

KINDS = ["wav", "flac", "ogg"]


def refused(content: bytes, reason: str) -> None:
    """Scanning and decoding give the same reason."""
    for read in (scan_audio, decode_audio):
        with pytest.raises(UndecodableError, match=reason):
            read(content, RATE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_is_decoded_unchanged_to_16_bits(kind: str) -> None:
    waveform_T = noise(5000)
    content = encode(waveform_T, kind)
    decoded_T = decode_audio(content, RATE)
    assert decoded_T.dtype == np.float32 and decoded_T.flags.c_contiguous
    assert len(decoded_T) == scan_audio(content, RATE) == scan_audio(io.BytesIO(content), RATE) == 5000
    if kind != "ogg":  # lossy
        np.testing.assert_allclose(decoded_T, waveform_T, atol=2**-15)


def test_stereo_becomes_the_mean_of_its_channels() -> None:
    left_T, right_T = noise(400, 1), noise(400, 2)
    content = encode(np.stack([left_T, right_T], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(decode_audio(content, RATE), (left_T + right_T) / 2, atol=1e-7)
    assert scan_audio(content, RATE) == 400


@pytest.mark.parametrize("own_rate", [8000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("num_samples", [4000, 4001, 4409])
def test_another_rate_is_resampled_to_the_length_that_scanning_returned(own_rate: int, num_samples: int) -> None:
    content = encode(noise(num_samples), rate=own_rate)
    assert len(decode_audio(content, RATE)) == scan_audio(content, RATE)


def test_a_tone_of_8_khz_audio_stays_the_same_tone() -> None:
    tone = lambda rate: np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)  # noqa: E731  # one second
    decoded_T = decode_audio(encode(tone(8000), rate=8000, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(decoded_T[200:-200], tone(RATE)[200:-200], atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_recording_is_refused(kind: str, share: float) -> None:
    content = encode(noise(32_000), kind)
    with pytest.raises(UndecodableError, match="truncated"):
        decode_audio(content[: int(share * len(content))], RATE)


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_scanning_notices_that_a_recording_is_truncated(kind: str) -> None:
    content = encode(noise(32_000), kind)
    refused(content[: len(content) // 2], "truncated")
    refused(content[:-1], "truncated")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_that_was_written_into_a_pipe_is_read_to_its_end(length: int) -> None:
    content = bytearray(encode(noise(500)))
    start = content.find(b"data") + 4
    content[4:8] = content[start : start + 4] = struct.pack("<I", length)
    assert len(decode_audio(bytes(content), RATE)) == scan_audio(bytes(content), RATE) == 500


def test_a_file_that_is_not_a_recording_is_refused_with_the_reason() -> None:
    refused(b"", "^empty file$")
    refused(b"hello, world\n" * 100, r"^not audio \(Format not")
    refused(encode(noise(0)), "^no samples in it$")
    refused(encode(noise(500), "flac")[:30], "^not audio")
    refused(encode(noise(500), rate=15_999), "^its rate of 15999 Hz has too small a common divisor with 16000 Hz$")


def test_an_impossible_length_is_refused_before_memory_is_allocated() -> None:
    content = bytearray(encode(noise(500), "flac"))
    content[22:26] = b"\xff\xff\xff\xff"  # STREAMINFO's number of samples, lowest bits
    refused(bytes(content), "its header says more than 24 hours")


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(KINDS), position=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_file_with_one_wrong_byte_is_decoded_or_refused_without_another_error(kind: str, position: float, byte: int) -> None:
    content = bytearray(encode(noise(2000), kind))
    content[int(position**3 * (len(content) - 1))] = byte  # mostly in the header
    for read in (scan_audio, decode_audio):
        with suppress(UndecodableError):
            read(bytes(content), RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    waveform_T = noise(500)
    waveform_T[17] = value
    with pytest.raises(UndecodableError, match="NaN or infinite"):
        decode_audio(encode(waveform_T, subtype="FLOAT"), RATE)


class FramesRead:
    """Counts the frames that libsndfile decodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, read = 0, soundfile.SoundFile.read

        def counted(sound: Any, frames: int = -1, *args: Any, **options: Any) -> np.ndarray:
            found = read(sound, frames, *args, **options)
            self.count += len(found)
            return found

        monkeypatch.setattr(soundfile.SoundFile, "read", counted)


@pytest.mark.parametrize(("kind", "own_rate"), [("wav", RATE), ("flac", RATE), ("ogg", RATE), ("wav", 44_100), ("flac", 48_000)])
def test_a_crop_is_that_of_the_whole_recording_and_little_else_is_decoded(
    kind: str, own_rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 s of three minutes: bit for bit at the recording's own rate, to 1e-6 if it is resampled."""
    content = encode(noise(180 * own_rate), kind, rate=own_rate)
    whole_T, frames = decode_audio(content, RATE), FramesRead(monkeypatch)
    for start in (0, 1_234_567, 160 * RATE):
        frames.count = 0
        crop_T = decode_crop(io.BytesIO(content), RATE, Crop(start, 20 * RATE))
        assert 20 * own_rate <= frames.count <= 25 * own_rate
        np.testing.assert_allclose(crop_T, whole_T[start : start + 20 * RATE], rtol=0, atol=0 if own_rate == RATE else 1e-6)


@pytest.mark.parametrize("kind", ["mp3", "chained ogg"])
def test_a_crop_is_cut_from_the_whole_recording_if_the_format_has_no_exact_seek(kind: str) -> None:
    content = encode(noise(50_000), "mp3") if kind == "mp3" else encode(noise(30_000), "ogg") + encode(noise(20_000, 1), "ogg")
    whole_T = decode_audio(content, RATE)
    for start in (0, 25_000, 35_000):
        np.testing.assert_array_equal(decode_crop(io.BytesIO(content), RATE, Crop(start, 9000)), whole_T[start : start + 9000])


def test_a_crop_of_a_segment_is_within_the_segment() -> None:
    content, segment = encode(noise(88_200), rate=44_100), Segment(0.5, 1.0)
    whole_T = decode_audio(content, RATE, segment)
    crop_T = decode_crop(io.BytesIO(content), RATE, Crop(4001, 11_999), segment)
    np.testing.assert_allclose(crop_T, whole_T[4001:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", [4001, 6000])
def test_a_crop_that_the_recording_does_not_have_is_refused(start: int) -> None:
    with pytest.raises(UndecodableError, match=rf"ends before sample {start + 1000:,} at 16000 Hz"):
        decode_crop(io.BytesIO(encode(noise(5000))), RATE, Crop(start, 1000))


def test_a_crop_with_samples_that_are_not_finite_is_refused() -> None:
    waveform_T = noise(5000)
    waveform_T[4000] = np.nan
    content = encode(waveform_T, subtype="FLOAT")
    assert len(decode_crop(io.BytesIO(content), RATE, Crop(1000, 1000))) == 1000
    with pytest.raises(UndecodableError, match="NaN"):
        decode_crop(io.BytesIO(content), RATE, Crop(3500, 1000))


def test_normalize_is_layer_norm_over_all_samples_to_1e_6() -> None:
    waveform_T = noise(20_000) + 0.3
    expected_T = torch.nn.functional.layer_norm(torch.from_numpy(waveform_T), (20_000,), eps=1e-5)
    np.testing.assert_allclose(normalize(waveform_T), expected_T.numpy(), atol=1e-6 * 5, rtol=1e-5)
    assert normalize(waveform_T).dtype == np.float32


def test_silence_stays_silence() -> None:
    np.testing.assert_array_equal(normalize(decode_audio(encode(np.zeros(500, dtype=np.float32)), RATE)), np.zeros(500))
    np.testing.assert_allclose(normalize(np.full(500, 0.5, dtype=np.float32)), np.zeros(500))


def test_the_shipped_sample_has_its_licence_beside_it_and_decodes() -> None:
    clips = sorted(AUDIO.sample.glob("*.ogg"))
    assert len(clips) == 221 and sum(clip.stat().st_size for clip in clips) < 4e6
    assert "Licence: Apache-2.0" in (AUDIO.sample / "README.md").read_text()
    assert "Apache License" in (AUDIO.sample / "LICENSE").read_text()
    lengths = [scan_audio(clip.read_bytes(), RATE) for clip in clips]
    assert min(lengths) >= 2 * RATE and max(lengths) <= 8 * RATE and sum(lengths) / RATE / 60 > 14
    assert len(decode_audio(clips[0].read_bytes(), RATE)) == lengths[0]
    assert all(soundfile.info(clip).samplerate == RATE for clip in clips)
