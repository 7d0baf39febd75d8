"""A small file has the old or the new content, even after an error in between."""

import os
from pathlib import Path

import pytest

from recipes.system.durable import sync, write_text_atomically
from tests.durability import durable_moves


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    write_text_atomically(path, "old")

    def refuse(descriptor: int) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="the disk went away"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [".latest.tmp", "latest"], (
        "hidden until it is complete"
    )
    monkeypatch.undo()
    write_text_atomically(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["latest"]


def test_a_file_and_its_name_survive_a_power_cut(tmp_path: Path) -> None:
    with durable_moves(tmp_path) as recorder:
        write_text_atomically(tmp_path / "latest", "old")
        write_text_atomically(tmp_path / "latest", "new")
    assert recorder.moves == ["latest", "latest"]


def test_sync_flushes_the_file_or_folder_and_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("text")
    synced, descriptors = [], Path("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(descriptors / str(descriptor))))
    before = len(list(descriptors.iterdir()))
    sync(tmp_path / "file")
    sync(tmp_path)
    assert synced == [str(tmp_path / "file"), str(tmp_path)] and len(list(descriptors.iterdir())) == before
