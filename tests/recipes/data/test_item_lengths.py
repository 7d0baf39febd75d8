"""Lengths of items are those of the headers, in order, on any number of processes, and an item that cannot be read has length 0."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from recipes.data import item_lengths
from recipes.data.audio import AUDIO, scan_audio
from recipes.data.item_lengths import scan_lengths
from recipes.data.media_source import open_media
from tests.recipes.data.recordings import RATE, write_recordings

LENGTHS = [400, 1600, 37, 900, 901, 400, 20]
SCAN = partial(scan_audio, sample_rate=RATE)


def test_lengths_are_in_the_order_of_the_items_and_bad_items_have_none(tmp_path: Path) -> None:
    write_recordings(tmp_path, LENGTHS)
    (tmp_path / "003.wav").write_bytes(b"no audio")
    lengths_N, bad = scan_lengths(open_media(str(tmp_path), AUDIO, column="audio"), SCAN, 1)
    assert lengths_N.dtype == np.int64 and lengths_N.tolist() == [400, 1600, 37, 0, 901, 400, 20]
    assert [one.where for one in bad] == [str(tmp_path / "003.wav")]


def test_parts_and_processes_do_not_show_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = open_media(str(write_recordings(tmp_path, LENGTHS)), AUDIO, column="audio")
    monkeypatch.setattr(item_lengths, "ITEMS_PER_TASK", 2)
    monkeypatch.setattr(item_lengths, "ITEMS_PER_PROCESS", 4)
    for processes in (1, 2):
        assert scan_lengths(media, SCAN, processes)[0].tolist() == LENGTHS


def test_segments_have_their_own_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recordings(tmp_path, [1600])
    (tmp_path / "list.csv").write_text("audio,start,duration\n000.wav,0,0.025\n000.wav,0.025,0.05\n000.wav,0.05,0.05\n")
    monkeypatch.setattr(item_lengths, "ITEMS_PER_TASK", 2)
    assert scan_lengths(open_media(str(tmp_path / "list.csv"), AUDIO, column="audio"), SCAN, 1)[0].tolist() == [400, 800, 800]


def test_no_items_have_no_lengths(tmp_path: Path) -> None:
    write_recordings(tmp_path, [400])
    media = open_media(str(tmp_path), AUDIO, column="audio")
    lengths_N, bad = scan_lengths(type(media)("none", str(tmp_path), []), SCAN, 1)  # type: ignore[call-arg]
    assert lengths_N.shape == (0,) and bad == []
