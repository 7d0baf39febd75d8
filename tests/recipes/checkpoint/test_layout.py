"""Names and small files of a checkpoint: what is complete, which is the newest, and a file that is replaced whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from recipes.checkpoint.layout import FORMAT, Range, latest, range_from_json, range_to_json, read_state, step_folder, write_text_atomically
from recipes.errors import ConfigError


def make_checkpoint(run_dir: Path, step: int, *, complete: bool = True) -> Path:
    folder = step_folder(run_dir, step)
    folder.mkdir(parents=True)
    if complete:
        (folder / "state.json").write_text(json.dumps({"format": FORMAT}))
    return folder


def test_folders_sort_by_step(tmp_path: Path) -> None:
    assert step_folder(tmp_path, 100) == tmp_path / "checkpoints" / "step_00000100"
    names = [step_folder(tmp_path, step).name for step in (2, 10, 99_999_999)]
    assert names == sorted(names)


def test_latest_is_the_one_that_is_named(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    older, _ = make_checkpoint(tmp_path, 5), make_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000005\n")
    assert latest(tmp_path) == older


@pytest.mark.parametrize("named", [None, "step_00000020\n", "step_00000030\n", "\n"], ids=["no file", "incomplete", "removed", "empty"])
def test_a_lost_latest_does_not_lose_the_run(tmp_path: Path, named: str | None) -> None:
    """Starting from step 0 again would cut metrics.jsonl and overwrite the run."""
    make_checkpoint(tmp_path, 9)
    newest = make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 20, complete=False)
    (tmp_path / "checkpoints" / ".step_00000040.tmp").mkdir()
    (tmp_path / "checkpoints" / ".step_00000040.tmp" / "state.json").write_text("{}")
    if named is not None:
        (tmp_path / "checkpoints" / "latest").write_text(named)
    assert latest(tmp_path) == newest


def test_a_range_survives_its_header_entry() -> None:
    for dim in (None, 0, 1):
        place = Range("trunk.encoder.layers.0.weight", (4, 6), dim, 1, 2, 12, 12)
        text = range_to_json(place)
        assert type(text) is str and range_from_json(text) == place


def test_state_of_no_checkpoint_or_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no state\.json, so not a complete checkpoint; name a run dir or a folder"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ConfigError, match=f"checkpoint format {FORMAT + 1}, this version reads {FORMAT}"):
        read_state(tmp_path)


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
