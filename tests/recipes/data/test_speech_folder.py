"""Checks of the lengths that a recipe uses. The prepared folder is tested in test_media_folder.py and test_speech.py."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data.media_folder import open_prepared
from recipes.data.speech_folder import longest_samples, prepare_speech, shortest_samples
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.recordings import FRONTEND, clips_config, write_recordings


@pytest.fixture
def clips(tmp_path: Path) -> SpeechDataConfig:
    """Five recordings."""
    return clips_config(write_recordings(tmp_path / "clips", [800, 900, 1000, 1100, 1200]))


def test_impossible_lengths_and_rates_are_refused(clips: SpeechDataConfig, tmp_path: Path) -> None:
    for wrong in ({"sample_rate": 0}, {"min_seconds": 0.2}, {"min_seconds": -1.0}, {"min_seconds": 0.0, "max_seconds": 0.001}):
        with pytest.raises(ConfigError, match=r"data\.(sample_rate|min_seconds) "):
            prepare_speech(replace(clips, **wrong), FRONTEND, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_error_about_clips_that_are_all_too_short_has_the_setting_and_their_length(clips: SpeechDataConfig, tmp_path: Path) -> None:
    usual = replace(clips, min_seconds=2.0, max_seconds=20.0)
    with pytest.raises(
        ConfigError, match=r"none of 5 items .*data\.min_seconds is 2, the longest has 0\.075 s; --set .*=0\.05 uses"
    ) as caught:
        prepare_speech(usual, FRONTEND, tmp_path / "out", num_processes=1)
    remedy = re.search(r"--set data\.min_seconds=(\S+)", str(caught.value))
    assert remedy is not None
    used = prepare_speech(replace(usual, min_seconds=float(remedy[1])), FRONTEND, tmp_path / "out", num_processes=1)
    assert open_prepared(used).counts["short"] == 0


def test_the_shortest_recording_gives_a_frame_and_the_longest_is_cut_to_whole_samples() -> None:
    data, published = SpeechDataConfig(), SpeechFrontendConfig()
    assert (shortest_samples(data, published), longest_samples(data)) == (32_000, 320_000)
    assert shortest_samples(replace(data, min_seconds=0.001), published) == published.receptive_field == 400
    assert longest_samples(replace(data, max_seconds=0.10001)) == 1600
