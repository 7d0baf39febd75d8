"""Rows that are stretches of long recordings, from the list to the sample: only the segment is read, and it has a name of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data import contents
from recipes.data.audio import AUDIO, decode_audio, read_audio
from recipes.data.contents import ContentChanges, ResumedRun, compare_contents
from recipes.data.labelled import labelled_speech
from recipes.data.media import Files, UndecodableError, first_working
from recipes.data.media_folder import open_prepared
from recipes.data.media_source import open_media
from recipes.data.speech_folder import prepare_speech
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.recordings import FRONTEND, RATE, clips_config, encode, noise, open_split

NUM_ROWS, SECONDS = 20, 0.1


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Twenty stretches of one recording of two seconds, and the whole of a second one."""
    (tmp_path / "long.wav").write_bytes(encode(noise(2 * RATE)))
    (tmp_path / "short.wav").write_bytes(encode(noise(800, 1)))
    rows: list[dict[str, Any]] = [{"offset": SECONDS * number, "duration": SECONDS} for number in range(NUM_ROWS)]
    rows = [{"audio_filepath": "long.wav", "label": str(number % 2), **row} for number, row in enumerate(rows)]
    path = tmp_path / "segments.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {"audio_filepath": "short.wav", "label": "0"}])))
    return path


@pytest.fixture
def data(listed: Path) -> SpeechDataConfig:
    return replace(clips_config(listed), heldout_fraction=0.0)


def test_every_row_is_its_own_item(tmp_path: Path, data: SpeechDataConfig) -> None:
    said: list[str] = []
    prepared = open_prepared(prepare_speech(data, FRONTEND, tmp_path / "out", num_processes=1, log=said.append))
    assert said[0] == f"{data.path}: items are segments of its files, by the columns offset, duration in seconds"
    assert prepared.lengths_N.tolist() == [1600] * NUM_ROWS + [800]
    assert len({prepared.media.key(item) for item in range(NUM_ROWS + 1)}) == NUM_ROWS + 1
    assert prepared.media.where(3) == f"{tmp_path}/long.wav 0.300 to 0.400 s"
    assert prepared.media.where(NUM_ROWS) == f"{tmp_path}/short.wav"
    whole = decode_audio((tmp_path / "long.wav").read_bytes(), RATE)
    for item in range(NUM_ROWS):
        np.testing.assert_array_equal(read_audio(prepared.media, item, RATE), whole[1600 * item : 1600 * (item + 1)])
    dataset = open_split(data, tmp_path / "out")
    assert len(dataset.example(0, 5, (4, 5, 6, 7)).waveform) == 1600


def test_items_of_one_file_have_one_origin(listed: Path) -> None:
    media = open_media(str(listed), AUDIO, column="audio")
    assert isinstance(media, Files)
    assert {media.origin(item) for item in range(NUM_ROWS)} == {str(listed.parent / "long.wav")} != {media.origin(NUM_ROWS)}


def test_other_stretches_are_other_data(tmp_path: Path, listed: Path, data: SpeechDataConfig) -> None:
    first = open_prepared(prepare_speech(data, FRONTEND, tmp_path / "out", num_processes=1)).fingerprint
    listed.write_text(listed.read_text().replace('"offset": 0.1,', '"offset": 0.11,'))
    assert open_prepared(prepare_speech(data, FRONTEND, tmp_path / "other", num_processes=1)).fingerprint != first


def test_a_stretch_beyond_the_recording_is_a_bad_item_that_is_named(tmp_path: Path, listed: Path, data: SpeechDataConfig) -> None:
    listed.write_text(listed.read_text() + '\n{"audio_filepath": "long.wav", "offset": 1.9, "duration": 5}')
    with pytest.raises(ConfigError, match=r"1 of 22 items .*long\.wav 1\.900 to 6\.900 s \(1\.9 to 6\.9 s is not within its 2 s\)"):
        prepare_speech(replace(data, max_bad_fraction=0.0), FRONTEND, tmp_path / "out", num_processes=1)


def test_a_damaged_list_of_stretches_is_named(tmp_path: Path, data: SpeechDataConfig) -> None:
    folder = prepare_speech(data, FRONTEND, tmp_path / "out", num_processes=1)
    (folder / "stretches.bin").write_bytes(b"1234567890123456")
    with pytest.raises(ConfigError, match=r"stretches\.bin is damaged"):
        open_prepared(folder)


def test_a_recording_that_was_repaired_is_one_file_however_many_stretches_it_has(
    tmp_path: Path, data: SpeechDataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepare_speech(data, FRONTEND, tmp_path / "out", num_processes=1)
    repaired = tmp_path / "long.wav"
    repaired.write_bytes(encode(noise(2 * RATE, 2)))
    assert compare_contents(folder) == ContentChanges((str(repaired),), 2, 2), "two files, one of which has twenty stretches"
    media = open_prepared(folder).media
    _, _, bad = first_working(media, [*range(NUM_ROWS + 1)], check_is_last)
    files = {str(item.file) for item in bad}
    assert files == {str(repaired)} and compare_contents(folder, files) == ContentChanges((), 2, 2, fixed=(str(repaired),))
    strict = replace(data, max_bad_fraction=0.0)
    assert prepare_speech(strict, FRONTEND, folder, run=ResumedRun(bad=files)) == folder, "as the run asked for when it ended"
    monkeypatch.setattr(contents, "MAX_COMPARED", 1)
    assert {compare_contents(folder).changed for _ in range(20)} == {(str(repaired),), ()}, "files are drawn, not stretches"


def check_is_last(item: int) -> None:
    """Decodes nothing but the whole file."""
    if item < NUM_ROWS:
        raise UndecodableError("damaged")


def test_labelled_stretches_are_read_as_stretches(tmp_path: Path, listed: Path, data: SpeechDataConfig) -> None:
    labelled = labelled_speech(data, FRONTEND, str(listed), "train", "label")
    assert labelled.labels == ["0", "1"] * (NUM_ROWS // 2) + ["0"]
    assert [len(labelled.read(item).waveform) for item in (0, 7, NUM_ROWS)] == [1600, 1600, 800]


def test_a_column_that_the_user_named_must_be_there(tmp_path: Path, listed: Path, data: SpeechDataConfig) -> None:
    with pytest.raises(ConfigError, match=r"no column 'clip', there are audio_filepath, label, offset, duration; --set data\.column=NAME"):
        prepare_speech(replace(data, column="clip"), FRONTEND, tmp_path / "out", num_processes=1)
    with pytest.raises(ConfigError, match=r"data\.column 'clip' has no effect, as files have no columns"):
        prepare_speech(replace(data, path=str(tmp_path), column="clip"), FRONTEND, tmp_path / "out", num_processes=1)
