"""Names and small files of a checkpoint: which checkpoints are complete, which is the newest, and damage to the manifest."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.checkpoint.layout import (
    FORMAT,
    MANIFEST,
    Counters,
    FileEntry,
    Manifest,
    ParameterEntry,
    Range,
    candidates,
    check_files,
    newest,
    range_from_json,
    range_to_json,
    read_manifest,
    step_folder,
    step_of,
    write_manifest,
)
from recipes.errors import ConfigError, DamagedCheckpoint

MADE_UP = Manifest(
    Counters(step=7, update=9, samples=72, tokens=99),
    2,
    3,
    {"layer.weight": ParameterEntry((6, 8), 1, 8), "layer.bias": ParameterEntry((6,), None, 2)},
    (FileEntry("rank_00000.safetensors", 4, "ab" * 32, 0, 0),),
    {"recipe": {"name": "text_tiny", "optim": {"lr": 3e-4}}, "versions": {}, "time": 1.5},
)


def make_checkpoint(run_dir: Path, step: int, *, complete: bool = True) -> Path:
    folder = step_folder(run_dir, step)
    folder.mkdir(parents=True)
    (folder / "rank_00000.safetensors").write_bytes(b"data")
    if complete:
        write_manifest(folder, replace(MADE_UP, counters=Counters(step=step)))
    return folder


def test_folders_sort_by_step(tmp_path: Path) -> None:
    assert step_folder(tmp_path, 100) == tmp_path / "checkpoints" / "step_00000100"
    names = [step_folder(tmp_path, step).name for step in (2, 10, 99_999_999)]
    assert names == sorted(names)
    assert [step_of(step_folder(tmp_path, step)) for step in (0, 7, 99_999_999)] == [0, 7, 99_999_999]


def test_the_first_candidate_is_the_one_that_latest_names_and_older_ones_follow(tmp_path: Path) -> None:
    assert (candidates(tmp_path), newest(tmp_path)) == ([], None)
    folders = [make_checkpoint(tmp_path, step) for step in (5, 10, 20)]
    (tmp_path / "checkpoints" / "latest").write_text("step_00000010\n")
    assert candidates(tmp_path) == [folders[1], folders[0]] and newest(tmp_path) == folders[1]


@pytest.mark.parametrize(
    "named", [None, "step_00000030\n", "\n", "../..", "\0", b"\xff\xfe"], ids=["no file", "removed", "empty", "outside", "zero", "no text"]
)
def test_without_a_valid_latest_the_newest_checkpoint_is_found(tmp_path: Path, named: str | bytes | None) -> None:
    """Otherwise the run would start from step 0 again, cut metrics.jsonl and overwrite its checkpoints."""
    older, newer = make_checkpoint(tmp_path, 9), make_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / ".step_00000040.tmp").mkdir()
    (tmp_path / "checkpoints" / "step_later").mkdir()
    (tmp_path / "checkpoints" / "step_00000050").write_text("a file")
    write_manifest(tmp_path / "checkpoints" / ".step_00000040.tmp", MADE_UP)
    if named is not None:
        (tmp_path / "checkpoints" / "latest").write_bytes(named if isinstance(named, bytes) else named.encode())
    assert candidates(tmp_path) == [newer, older] and newest(tmp_path) == newer


def test_the_newest_checkpoint_is_one_whose_files_are_complete(tmp_path: Path) -> None:
    good, short, bare = make_checkpoint(tmp_path, 1), make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 3, complete=False)
    (short / "rank_00000.safetensors").write_bytes(b"dat")
    assert newest(tmp_path) == good and candidates(tmp_path)[0] == bare
    with pytest.raises(DamagedCheckpoint, match=r"rank_00000\.safetensors has 3 of 4 bytes"):
        check_files(short, read_manifest(short))
    (short / "rank_00000.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"rank_00000\.safetensors is missing"):
        check_files(short, read_manifest(short))


def test_a_manifest_and_a_range_are_the_same_after_the_round_trip_through_text(tmp_path: Path) -> None:
    write_manifest(tmp_path, MADE_UP)
    assert read_manifest(tmp_path) == MADE_UP and MADE_UP.num_bytes() == 4
    for dim in (None, 0, 1):
        place = Range("trunk.encoder.layers.0.weight", (4, 6), dim, 1, 2, 12, 12, ("ab", "cd"))
        text = range_to_json(place)
        assert type(text) is str and range_from_json(text) == place


def test_every_flipped_bit_and_every_truncation_of_a_manifest_is_detected(tmp_path: Path) -> None:
    write_manifest(tmp_path, MADE_UP)
    whole = (tmp_path / MANIFEST).read_bytes()
    with (tmp_path / MANIFEST).open("r+b", buffering=0) as file:  # changed in place, because rewriting the file takes ten times as long
        for number in range(8 * len(whole)):
            place = number // 8
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << number % 8]), place)
            assert is_damaged(tmp_path), f"bit {number}"
            os.pwrite(file.fileno(), whole[place : place + 1], place)
        assert read_manifest(tmp_path) == MADE_UP
        for length in reversed(range(len(whole))):
            file.truncate(length)
            assert is_damaged(tmp_path), f"{length} of {len(whole)} bytes"


def is_damaged(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except DamagedCheckpoint:
        return True
    return False


def test_no_checkpoint_and_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"no manifest\.json, so not a complete checkpoint"):
        read_manifest(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ConfigError, match="checkpoint format 1, this version reads 2 and 3; use the version that wrote it"):
        read_manifest(tmp_path)
    for other, remedy in ((FORMAT + 1, "a newer release wrote it: update this one"), (1, "use the version that wrote it")):
        monkeypatch.setattr("recipes.checkpoint.layout.FORMAT", other)
        write_manifest(tmp_path, MADE_UP)
        monkeypatch.undo()
        with pytest.raises(ConfigError, match=f"checkpoint format {other}, this version reads 2 and 3; {remedy}") as caught:
            read_manifest(tmp_path)
        assert not isinstance(caught.value, DamagedCheckpoint), "the run must not fall back to an older checkpoint"
