"""Damaged speech data: what the preparation finds, what training finds, and how a bad recording is replaced."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.data.audio import decode_audio, normalize
from recipes.data.media_folder import open_prepared
from recipes.data.speech import SpeechDataset
from recipes.data.speech_folder import prepare_speech, shortest_samples
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.recordings import FRONTEND, MASK, RATE, clips_config, encode, noise, open_split, write_recordings


@pytest.fixture
def own(tmp_path: Path) -> SpeechDataConfig:
    """Six recordings that the test may damage. They have 500, 600, ... samples, so sorting by length keeps the order of their names."""
    path = write_recordings(tmp_path / "own", [500, 600, 700, 800, 900, 1000])
    return replace(clips_config(path), heldout_fraction=0.0, max_bad_fraction=0.5)


def test_a_bad_recording_is_replaced_by_the_next_good_one(own: SpeechDataConfig, tmp_path: Path) -> None:
    dataset, whole = open_split(own, tmp_path / "run"), open_split(own, tmp_path / "run")
    (tmp_path / "own" / "002.wav").unlink()
    (tmp_path / "own" / "003.wav").write_bytes(encode(noise(799)))  # can be decoded, but is shorter than it was
    group = (1, 2, 4, 5)
    before, after = (which.example(0, 1, group) for which in (whole, dataset))
    np.testing.assert_array_equal(before.waveform, after.waveform)  # other members of the group do not change
    assert dataset.take_bad() == []
    example = dataset.example(0, 2, group)
    assert len(example.waveform) == 600 and example.mask.sum() == before.mask.sum()
    replacement_T = normalize(decode_audio((tmp_path / "own" / "004.wav").read_bytes(), RATE))
    assert any(np.array_equal(replacement_T[start : start + 600], example.waveform) for start in range(301))
    bad = dataset.take_bad()
    assert [Path(item.where).name for item in bad] == ["002.wav", "003.wav"]
    assert [item.reason for item in bad] == ["No such file or directory", "799 samples, 800 when it was prepared"]
    assert dataset.take_bad() == []
    np.testing.assert_array_equal(example.waveform, open_split(own, tmp_path / "run").example(0, 2, group).waveform)


def test_after_the_longest_recording_the_search_continues_with_shorter_ones_that_are_long_enough(
    own: SpeechDataConfig, tmp_path: Path
) -> None:
    dataset = open_split(own, tmp_path / "run")
    for name in ("004.wav", "005.wav"):
        (tmp_path / "own" / name).write_bytes(b"")
    example = dataset.example(0, 5, (3, 5))  # 800 samples
    replacement_T = normalize(decode_audio((tmp_path / "own" / "003.wav").read_bytes(), RATE))
    np.testing.assert_array_equal(example.waveform, replacement_T)
    assert [item.reason for item in dataset.take_bad()] == ["empty file"]


def test_if_no_good_recording_is_long_enough_the_next_shorter_one_is_repeated(own: SpeechDataConfig, tmp_path: Path) -> None:
    dataset = open_split(own, tmp_path / "run")
    for name in ("003.wav", "004.wav", "005.wav"):
        (tmp_path / "own" / name).write_bytes(b"")
    example = dataset.example(0, 4, (4,))  # 900 samples
    replacement_T = normalize(decode_audio((tmp_path / "own" / "002.wav").read_bytes(), RATE))
    np.testing.assert_array_equal(example.waveform, np.concatenate([replacement_T, replacement_T[:200]]))
    assert [Path(item.where).name for item in dataset.take_bad()] == ["004.wav", "005.wav", "003.wav"]


def test_no_good_recording_at_all_ends_the_run(own: SpeechDataConfig, tmp_path: Path) -> None:
    dataset = open_split(own, tmp_path / "run")
    for path in (tmp_path / "own").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"none of 6 items can be decoded: .*000\.wav \(empty file\)"):
        dataset.example(0, 0, (0, 1))


BAD = {
    "truncated.wav": encode(noise(800))[:-100],
    "truncated.ogg": encode(noise(800), "ogg")[:-100],
    "empty.wav": b"",
    "text.flac": b"no sound\n" * 200,
}


def test_bad_files_are_found_by_the_preparation(own: SpeechDataConfig, tmp_path: Path) -> None:
    for name, content in BAD.items():
        (tmp_path / "own" / name).write_bytes(content)
    lines: list[str] = []
    prepared = open_prepared(prepare_speech(own, FRONTEND, tmp_path / "run", num_processes=1, log=lines.append))
    assert sorted(Path(item.where).name for item in prepared.bad) == sorted(BAD)
    assert all(any(name in line for line in lines) for name in BAD) and prepared.counts["train"] == 6


def test_damage_that_only_decoding_shows_is_found_in_training(own: SpeechDataConfig, tmp_path: Path) -> None:
    nan_T = noise(1100)
    nan_T[7] = np.nan
    (tmp_path / "own" / "nan.wav").write_bytes(encode(nan_T, subtype="FLOAT"))
    (tmp_path / "own" / "cut.flac").write_bytes(encode(noise(1200), "flac")[:-200])
    dataset = open_split(own, tmp_path / "run")
    assert len(dataset) == 8
    examples = [dataset.example(0, index, (6, 7)) for index in (6, 7)]
    assert all(np.isfinite(example.waveform).all() for example in examples)
    assert {Path(item.where).name for item in dataset.take_bad()} == {"nan.wav", "cut.flac"}


def test_silent_stereo_and_8_khz_recordings_are_good(own: SpeechDataConfig, tmp_path: Path) -> None:
    odd = {
        "silent.wav": encode(np.zeros(1100, dtype=np.float32)),
        "stereo.wav": encode(np.stack([noise(1200, 1), noise(1200, 2)], axis=1)),
        "slow.wav": encode(noise(650), rate=8000),
    }
    for name, content in odd.items():
        (tmp_path / "own" / name).write_bytes(content)
    dataset = open_split(own, tmp_path / "run")
    assert open_prepared(tmp_path / "run").lengths_N.tolist() == [500, 600, 700, 800, 900, 1000, 1100, 1300, 1200]
    batch = dataset.collate([dataset.example(0, index, (6, 7, 8)) for index in (6, 7, 8)])
    assert torch.isfinite(batch.inputs).all() and dataset.take_bad() == []
    assert not batch.inputs[0].any() and batch.inputs[1:].std(dim=1).allclose(torch.ones(2), atol=0.1)


def test_recordings_shorter_than_one_frame_or_min_seconds_are_left_out(own: SpeechDataConfig, tmp_path: Path) -> None:
    (tmp_path / "own" / "short.wav").write_bytes(encode(noise(399)))
    (tmp_path / "own" / "frame.wav").write_bytes(encode(noise(19)))
    counts = open_prepared(prepare_speech(own, FRONTEND, tmp_path / "run", num_processes=1)).counts
    assert (counts["short"], counts["bad"], counts["train"]) == (2, 0, 6)
    any_length = replace(own, min_seconds=0.0)
    assert shortest_samples(any_length, FRONTEND) == FRONTEND.receptive_field == 20
    assert open_prepared(prepare_speech(any_length, FRONTEND, tmp_path / "run0", num_processes=1)).counts["short"] == 1


def test_a_folder_prepared_for_shorter_recordings_is_refused(own: SpeechDataConfig, tmp_path: Path) -> None:
    (tmp_path / "own" / "short.wav").write_bytes(encode(noise(300)))
    folder = prepare_speech(replace(own, min_seconds=0.0), FRONTEND, tmp_path / "run", num_processes=1)
    with pytest.raises(ConfigError, match=r"has a recording of 300 samples, .* need 400; prepare it again"):
        SpeechDataset(folder, "train", frontend=FRONTEND, mask=MASK, data=own, seed=1)
