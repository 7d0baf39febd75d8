"""A small file is the old one or the new one, whatever happens in between."""

import os
from pathlib import Path

import pytest

from recipes.durable import write_text_atomically


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest"
    write_text_atomically(path, "old")

    def refuse(descriptor: int) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="the disk went away"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_text_atomically(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["latest"]
