"""Resampling: a crop is resampled from the frames that it depends on, and torchaudio is needed only if rates differ."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.audio import decode_audio
from recipes.data.resampling import Crop, resample
from recipes.errors import ConfigError
from tests.recipes.data.recordings import RATE, encode, noise


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000]), st.integers(0, 6000), st.integers(1, 2000))
def test_the_frames_of_a_crop_give_the_crop_of_the_whole_to_1e_6(own_rate: int, start: int, num_samples: int) -> None:
    own_T = noise(own_rate // 2)
    crop = Crop(start, num_samples)
    first, last, skipped = crop.frames(own_rate, RATE)
    found_T = resample(own_T[first:last], own_rate, RATE)[skipped : skipped + num_samples]
    np.testing.assert_allclose(found_T, resample(own_T, own_rate, RATE)[start : start + num_samples], rtol=0, atol=1e-6)
    assert last - first < (num_samples / RATE + 0.3) * own_rate


def test_a_torchaudio_that_does_not_load_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *args: object) -> None:
            if name.startswith("torchaudio"):
                raise OSError("libc10_cuda.so: cannot open shared object file\nmore")

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"libc10_cuda\.so.*8000 to 16000 Hz.*remove \*\.so in .*torchaudio/lib") as caught:
        decode_audio(encode(noise(500), rate=8000), RATE)
    assert "\n" not in str(caught.value)
    assert len(decode_audio(encode(noise(500)), RATE)) == 500  # without resampling torchaudio is not needed
