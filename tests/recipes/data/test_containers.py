"""Chained .ogg and .flac of unknown length: every part is found, and a truncated file is refused."""

import io

import numpy as np
import pytest

from recipes.data.audio import decode_audio, scan_audio
from recipes.data.containers import streams_of
from recipes.data.media import UndecodableError
from tests.recipes.data.recordings import RATE, encode, noise


def without_length(content: bytes) -> bytes:
    """The .flac as a program writes it into a pipe, without its length in the header."""
    info = int.from_bytes(content[18:26], "big") & ~((1 << 36) - 1)
    return content[:18] + info.to_bytes(8, "big") + content[26:]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("rate", [11_025, RATE, 96_000])
@pytest.mark.parametrize("num_samples", [5, 4096, 4097, 48_001])
def test_a_flac_without_its_length_in_the_header_is_read_to_its_end(num_samples: int, rate: int, subtype: str) -> None:
    whole = encode(noise(num_samples), "flac", rate=rate, subtype=subtype)
    content = without_length(whole)
    assert content != whole
    np.testing.assert_array_equal(decode_audio(content, rate), decode_audio(whole, rate))
    assert scan_audio(content, rate) == scan_audio(io.BytesIO(content), rate) == num_samples


@pytest.mark.parametrize("num_missing", [1, 100, 20_000])
def test_a_flac_of_unknown_length_without_its_end_is_refused(num_missing: int) -> None:
    content = without_length(encode(noise(48_000), "flac"))[:-num_missing]
    for read in (scan_audio, decode_audio):
        with pytest.raises(UndecodableError, match="its header does not contain its length, and its last frame is damaged or cut off"):
            read(content, RATE)


@pytest.mark.parametrize("rates", [(RATE, RATE), (RATE, 8000), (RATE, RATE, RATE)])
def test_every_stream_of_a_chained_ogg_is_read(rates: tuple[int, ...]) -> None:
    parts = [encode(noise(4_000 * (2 + number), number), "ogg", rate=rate) for number, rate in enumerate(rates)]
    found = decode_audio(b"".join(parts), RATE)
    np.testing.assert_array_equal(found, np.concatenate([decode_audio(part, RATE) for part in parts]))
    assert scan_audio(b"".join(parts), RATE) == len(found)
    assert [stream.read() for stream in streams_of(io.BytesIO(b"".join(parts)))] == parts


def test_a_chained_ogg_whose_last_stream_is_cut_off_is_refused() -> None:
    content = encode(noise(8_000), "ogg") * 2
    for cut in (1, 500, len(content) // 4):
        with pytest.raises(UndecodableError, match="truncated: its last page is missing"):
            decode_audio(content[:-cut], RATE)


def test_any_other_file_is_one_part() -> None:
    for kind in ("wav", "flac", "ogg"):
        file = io.BytesIO(encode(noise(2_000), kind))
        assert streams_of(file) == [file]
        assert file.tell() == 0
