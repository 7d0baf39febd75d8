"""The prepared folder of recordings or images: which items are used and held out, when a folder is reused, and that an error leaves no
folder behind."""

import json
import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data import media_folder, progress
from recipes.data.audio import AUDIO, scan_audio
from recipes.data.media import BadItem, MediaKind
from recipes.data.media_folder import open_prepared, prepare_media
from recipes.data.scanning import Scanned, scan_items
from recipes.data.speech_folder import prepare_speech
from recipes.data.vision_folder import prepare_vision
from recipes.data_config import SpeechDataConfig, VisionDataConfig
from recipes.errors import ConfigError
from tests.durability import durable_moves
from tests.recipes.data.recordings import encode, noise, write_recordings

LENGTHS = [900, 500, 700, 500, 300, 800]


def prepare(data: SpeechDataConfig, out_dir: Path, kind: MediaKind = AUDIO, **options: Any) -> Path:
    """Prepare as prepare_speech does, with one process."""
    usual = {"scan": partial(scan_audio, sample_rate=16_000), "settings": {"data.sample_rate": 16_000}, "num_processes": 1}
    return prepare_media(data, kind, out_dir, **(usual | options))


def refused(data: SpeechDataConfig, tmp_path: Path, complaint: str, **options: Any) -> str:
    """Check that preparing raises this ConfigError, in one line, and leaves no folder. Return the message."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        prepare(data, tmp_path / "run" / "prepared", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.fixture
def clips(tmp_path: Path) -> SpeechDataConfig:
    """Six recordings, a sixth of them held out."""
    return SpeechDataConfig(path=str(write_recordings(tmp_path / "data", LENGTHS)), heldout_fraction=1 / 6)


def test_splits_are_sorted_by_length_then_number_and_have_no_common_item(tmp_path: Path, clips: SpeechDataConfig) -> None:
    prepared = open_prepared(prepare(replace(clips, heldout_fraction=0.0), tmp_path / "out"))
    assert prepared.lengths_N.tolist() == LENGTHS
    assert prepared.splits["train"].tolist() == [4, 1, 3, 2, 5, 0] and len(prepared.splits["valid"]) == 0
    assert prepared.media.read(2) == encode(noise(700, 2))
    prepared = open_prepared(prepare(replace(clips, heldout_fraction=0.5), tmp_path / "half"))
    parts = [prepared.splits[split].tolist() for split in ("train", "valid")]
    assert sorted(parts[0] + parts[1]) == [0, 1, 2, 3, 4, 5] and len(parts[1]) == 3
    assert all(part == sorted(part, key=lambda i: (LENGTHS[i], i)) for part in parts)


def test_a_small_fraction_holds_out_one_recording_but_never_the_only_one(tmp_path: Path, clips: SpeechDataConfig) -> None:
    lines: list[str] = []
    prepared = open_prepared(prepare(replace(clips, heldout_fraction=0.001), tmp_path / "out", log=lines.append))
    assert prepared.counts == {"items": 6, "bad": 0, "short": 0, "train": 5, "valid": 1}
    assert lines == ["all: 6 files (6 .wav)", "prepared 6 audio items: 5 train and 1 held-out samples"]
    lone = replace(clips, path=str(write_recordings(tmp_path / "lone", [500])))
    assert open_prepared(prepare(lone, tmp_path / "lone_out")).counts["train"] == 1


def test_short_items_are_left_out_and_not_counted_as_bad(tmp_path: Path, clips: SpeechDataConfig) -> None:
    lines: list[str] = []
    prepared = open_prepared(prepare(clips, tmp_path / "out", min_length=501, log=lines.append))
    assert (prepared.counts["short"], prepared.counts["bad"], prepared.bad) == (3, 0, [])
    assert sorted([*prepared.splits["train"], *prepared.splits["valid"]]) == [0, 2, 5]
    assert lines[1] == "left out 3 audio items shorter than 501 samples"


def test_bad_items_are_left_out_logged_and_stored(tmp_path: Path, clips: SpeechDataConfig) -> None:
    (tmp_path / "data" / "002.wav").write_bytes(b"")
    lines: list[str] = []
    prepared = open_prepared(prepare(replace(clips, max_bad_fraction=0.2), tmp_path / "out", min_length=501, log=lines.append))
    assert prepared.counts == {"items": 6, "bad": 1, "short": 3, "train": 1, "valid": 1}
    assert prepared.bad == [BadItem(str(tmp_path / "data" / "002.wav"), "empty file")]
    assert prepared.lengths_N[2] == 0 and 2 not in [*prepared.splits["train"], *prepared.splits["valid"]]
    assert json.loads((prepared.folder / "bad.json").read_text()) == [[f"{tmp_path}/data/002.wav", "empty file"]]
    assert lines[1] == f"left out 1 audio items that cannot be read (all in bad.json): {tmp_path}/data/002.wav (empty file)"


def test_a_bad_item_does_not_move_others_between_the_splits(tmp_path: Path, clips: SpeechDataConfig) -> None:
    clips = replace(clips, max_bad_fraction=1.0)
    before = open_prepared(prepare(clips, tmp_path / "before")).splits
    lost = min(before["train"])
    (tmp_path / "data" / f"{lost:03}.wav").write_bytes(b"")
    after = open_prepared(prepare(clips, tmp_path / "after")).splits
    assert after["valid"].tolist() == before["valid"].tolist() and after["valid"].min() > lost
    assert after["train"].tolist() == [item for item in before["train"] if item != lost]


def test_the_error_for_too_many_bad_items_names_ten_and_leaves_no_folder(tmp_path: Path, clips: SpeechDataConfig) -> None:
    for number in range(6, 18):
        (tmp_path / "data" / f"{number:03}.wav").write_bytes(b"")
    message = refused(clips, tmp_path, r"12 of 18 items cannot be read, more than data\.max_bad_fraction 0\.01 allows")
    assert message.count("(empty file)") == 10 and "006.wav" in message and "016.wav" not in message
    assert message.endswith("and 2 more; fix or remove them, or --set data.max_bad_fraction=0.67")
    assert prepare(replace(clips, max_bad_fraction=0.67), tmp_path / "run" / "prepared")


def test_a_missing_file_of_a_list_is_a_bad_item(tmp_path: Path, clips: SpeechDataConfig) -> None:
    (tmp_path / "list.csv").write_text("path\ndata/000.wav\ndata/gone.wav\ndata/001.wav\n")
    listed = replace(clips, path=str(tmp_path / "list.csv"))
    refused(listed, tmp_path, r"1 of 3 items .*gone\.wav \(No such file or directory\)")
    refused(listed, tmp_path, r"1 of 3 items .*gone\.wav \(No such file or directory\)", scan=None)
    assert open_prepared(prepare(replace(listed, max_bad_fraction=0.4), tmp_path / "out")).counts["train"] == 1


def test_without_a_scan_every_item_has_length_1_and_is_not_read(tmp_path: Path, clips: SpeechDataConfig) -> None:
    (tmp_path / "data" / "002.wav").write_bytes(b"whatever")
    prepared = open_prepared(prepare(clips, tmp_path / "out", scan=None))
    assert prepared.lengths_N.tolist() == [1] * 6
    assert prepared.splits["train"].tolist() == sorted(prepared.splits["train"])


def test_parquet_is_copied_and_its_source_may_be_deleted(tmp_path: Path, clips: SpeechDataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    contents = [encode(noise(length, number)) for number, length in enumerate(LENGTHS)]
    datasets.Dataset.from_dict({"sound": contents}).to_parquet(tmp_path / "some.parquet")
    folder = prepare(replace(clips, path=str(tmp_path / "some.parquet"), column="sound"), tmp_path / "out")
    (tmp_path / "some.parquet").unlink()
    prepared = open_prepared(folder)
    assert prepared.lengths_N.tolist() == LENGTHS
    assert [prepared.media.read(i) for i in range(6)] == contents
    assert prepared.media.where(3) == f"{tmp_path}/some.parquet row 4"


def test_the_parquet_files_that_were_read_are_compared_again_and_others_are_not(
    tmp_path: Path, clips: SpeechDataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the files are reached through a link."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "far").mkdir()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "more").symlink_to(tmp_path / "far")
    train, test = tmp_path / "far" / "train.parquet", tmp_path / "tables" / "more" / "test.parquet"
    for path in (train, test):
        datasets.Dataset.from_dict({"audio": [encode(noise(500))] * 3}).to_parquet(path)
    clips = replace(clips, path=str(tmp_path / "tables"), column="audio")
    folder = prepare(clips, tmp_path / "out")
    datasets.Dataset.from_dict({"audio": [encode(noise(600))] * 3}).to_parquet(test)
    assert prepare(clips, tmp_path / "out") == folder
    datasets.Dataset.from_dict({"audio": [encode(noise(600))] * 3}).to_parquet(train)
    with pytest.raises(ConfigError, match=r"1 of 1 files hold something else .*more/train\.parquet"):
        prepare(clips, tmp_path / "out")


@pytest.mark.parametrize("kind", ["files", "table"])
def test_a_prepared_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, clips: SpeechDataConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if kind == "table":
        datasets.Dataset.from_dict({"audio": [encode(noise(500))] * 3}).to_parquet(tmp_path / "some.parquet")
        clips = replace(clips, path=str(tmp_path / "some.parquet"))
    (tmp_path / "runs").mkdir()
    with durable_moves(tmp_path / "runs") as recorder:
        folder = prepare(clips, tmp_path / "runs" / "one" / "prepared")
    assert recorder.moves == ["one/prepared"] and (folder / "table").is_dir() == (kind == "table")


def test_an_open_folder_is_pickled_as_its_path(tmp_path: Path, clips: SpeechDataConfig) -> None:
    prepared = open_prepared(prepare(clips, tmp_path / "out"))
    pickled = pickle.dumps(prepared)
    assert len(pickled) < 300
    other = open_prepared(prepare(clips, tmp_path / "other", scan=None))
    assert pickle.loads(pickled).fingerprint == prepared.fingerprint != other.fingerprint, "the lengths differ"
    assert pickle.loads(pickled).splits["train"].tolist() == prepared.splits["train"].tolist()


def test_a_finished_preparation_is_reused_if_source_and_settings_are_equal(tmp_path: Path, clips: SpeechDataConfig) -> None:
    out = prepare(clips, tmp_path / "out")
    before = (out / "prepared.json").stat().st_mtime_ns
    assert prepare(replace(clips, path=os.path.relpath(str(clips.path))), out) == out
    assert (out / "prepared.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"prepared from .*data, now --data None; remove it or choose another place"):
        prepare(replace(clips, path=None), out)
    with pytest.raises(ConfigError, match=r"prepared with data\.column audio, now sound"):
        prepare(replace(clips, column="sound"), out)
    with pytest.raises(ConfigError, match=r"prepared with data\.split None, now all; remove it or choose another place"):
        prepare(replace(clips, split="all"), out)
    with pytest.raises(ConfigError, match=r"prepared with data\.sample_rate 16000, the recipe has 8000; --set data\.sample_rate=16000"):
        prepare(clips, out, settings={"data.sample_rate": 8000})


@pytest.mark.parametrize("kind", ["speech", "vision"])
def test_options_of_a_preparation_are_passed_to_the_scan_the_bar_and_the_log(
    tmp_path: Path, clips: SpeechDataConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    events: list[str] = []

    def scan(*args: Any, num_processes: int, **options: Any) -> Scanned:
        passed.append(num_processes)
        return scan_items(*args, num_processes=num_processes, **options)

    def build_bar(label: str, total: int, unit: str) -> SimpleNamespace:
        events.append(label)
        return SimpleNamespace(update=lambda num_bytes: None, close=lambda: events.append("gone"))

    monkeypatch.setattr(progress, "_build_bar", build_bar)
    monkeypatch.setattr(media_folder, "scan_items", scan)
    monkeypatch.setattr(progress, "terminal_columns", lambda: 80)
    (tmp_path / "one.png").write_bytes(b"x")
    speech, vision = replace(clips, min_seconds=0.0), VisionDataConfig(path=str(tmp_path))
    frontend = SpeechFrontendConfig(conv_kernels=(10,), conv_strides=(5,))
    prepare = partial(prepare_speech, speech, frontend) if kind == "speech" else partial(prepare_vision, vision)
    prepare(tmp_path / "one" / "prepared", num_processes=3, progress=True, log=lambda line: events.append(line.split()[0]))
    prepare(tmp_path / "other" / "prepared")
    assert events == ["all:", "scanning", "gone", "prepared"] and passed == [3, len(os.sched_getaffinity(0))]


def test_a_prepared_folder_given_as_data_is_returned_unchanged(tmp_path: Path, clips: SpeechDataConfig) -> None:
    folder = prepare(clips, tmp_path / "first")
    given = replace(clips, path=str(folder), column="sound")  # data.column is not compared for a prepared folder
    assert prepare(given, tmp_path / "run") == folder and not (tmp_path / "run").exists()
    refused(replace(given, heldout_fraction=0.5), tmp_path, r"prepared with data\.heldout_fraction 0\.16\d+, the recipe has 0\.5; --set")
    refused(given, tmp_path, "prepared from audio data, not from image", kind=replace(AUDIO, name="image"))


def test_a_damaged_earlier_preparation_is_refused(tmp_path: Path, clips: SpeechDataConfig) -> None:
    folder = prepare(clips, tmp_path / "out")
    (folder / "lengths.bin").write_bytes((folder / "lengths.bin").read_bytes()[:-8])
    for given in (clips, replace(clips, path=str(folder))):
        with pytest.raises(ConfigError, match="a file in it is damaged"):
            prepare(given, folder)


def test_prepared_text_is_refused_as_recordings(prepared: Path, clips: SpeechDataConfig, tmp_path: Path) -> None:
    refused(replace(clips, path=str(prepared)), tmp_path, "prepared from text, not from audio or images")


@pytest.mark.parametrize("name", ["lengths.bin", "train.bin", "valid.bin", "bad.json", "paths.bin", "path_ends.bin", "prepared.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damage_to_any_file_is_noticed(tmp_path: Path, clips: SpeechDataConfig, name: str, damage: str) -> None:
    folder = prepare(clips, tmp_path / "out")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=r"remove the folder and prepare it again") as caught:
        open_prepared(folder)
    assert "\n" not in str(caught.value)


def test_a_table_that_lost_rows_after_it_was_prepared_is_refused(tmp_path: Path, clips: SpeechDataConfig) -> None:
    import datasets

    contents = [encode(noise(500, number)) for number in range(3)]
    datasets.Dataset.from_dict({"audio": contents}).save_to_disk(tmp_path / "saved")
    folder = prepare(replace(clips, path=str(tmp_path / "saved")), tmp_path / "out")
    datasets.Dataset.from_dict({"audio": contents[:2]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigError, match="a file in it is damaged"):
        open_prepared(folder)


def test_another_format_version_is_refused(tmp_path: Path, clips: SpeechDataConfig) -> None:
    folder = prepare(clips, tmp_path / "out")
    values = json.loads((folder / "prepared.json").read_text())
    (folder / "prepared.json").write_text(json.dumps(values | {"version": 99}))
    with pytest.raises(ConfigError, match="prepared format 99, this version reads 1"):
        open_prepared(folder)


def test_missing_data_and_data_without_usable_items_are_refused(tmp_path: Path, clips: SpeechDataConfig) -> None:
    refused(replace(clips, path=str(tmp_path / "nowhere")), tmp_path, "no such file or folder")
    refused(clips, tmp_path, r"none of 6 items can be used \(6 are shorter than 1000 samples, 0 cannot be read\)", min_length=1000)


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path, clips: SpeechDataConfig) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no prepared folder"):
        prepare(clips, tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["notes.md"]


def test_the_held_out_share_is_a_fraction_of_the_usable_items(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"{number:03}.wav").write_bytes(b"x")
    prepared = open_prepared(prepare(SpeechDataConfig(path=str(tmp_path), heldout_fraction=0.05), tmp_path / ".out", scan=None))
    assert prepared.counts["valid"] == 20
    assert np.abs(prepared.splits["valid"].mean() - 200) < 80  # spread over all items, not the first ones
