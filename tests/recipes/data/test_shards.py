"""The prepared folder: complete or absent, read back as it was written, and damage that is noticed."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recipes.data.shards import (
    ShardWriter,
    atomic_folder,
    find_prepared,
    hash_files,
    load_prepared,
    map_array,
    moved_aside,
    note_on_short,
    undo_moved_aside,
)
from recipes.errors import ConfigError, DataMismatch
from tests.distributed import run_command
from tests.durability import durable_moves
from tests.launching import ROOT


def copy_folder(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_boundaries_are_those_of_the_appended_paragraphs_without_empty_ones(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, np.dtype(np.uint16))
    writer.append(np.array([0, 0, 1]), np.array([2, 0, 3]), np.arange(5))
    writer.append(np.array([1, 2, 4]), np.array([1, 0, 2]), np.arange(3))
    writer.append(np.array([4]), np.array([0]), np.arange(0))
    writer.append(np.array([7]), np.array([1]), np.arange(1))  # a batch that starts with a new document
    writer.finish()
    assert writer.counts == {"documents": 4, "paragraphs": 5, "tokens": 9}
    assert map_array(tmp_path / "tokens.bin", np.uint16).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert map_array(tmp_path / "paragraph_ends.bin", np.int64).tolist() == [2, 5, 6, 8, 9]
    assert map_array(tmp_path / "document_ends.bin", np.int64).tolist() == [2, 6, 8, 9]


def test_the_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "prepared"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert os.listdir(target.parent) == ["prepared"]


@pytest.mark.parametrize("place", ["prepared", "new/run/prepared"])
def test_a_power_cut_at_any_moment_leaves_the_complete_folder_or_none(tmp_path: Path, place: str) -> None:
    with durable_moves(tmp_path) as recorder, atomic_folder(tmp_path / place) as folder:
        (folder / "table").mkdir()
        for path in (folder / "file", folder / "table" / "rows"):
            path.write_text("content")
    assert recorder.moves == [place]


@pytest.mark.parametrize("error", [ConfigError("bad text"), KeyboardInterrupt(), SystemExit(143), RuntimeError("defect")])
def test_any_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), atomic_folder(tmp_path / "new" / "prepared") as folder:
        (folder / "file").write_text("content")
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_one_line_with_path_reason_and_free_bytes(tmp_path: Path, code: int) -> None:
    complaint = rf"prepared: cannot be written \({os.strerror(code)}\), \d+ bytes free"
    with pytest.raises(ConfigError, match=complaint) as caught, atomic_folder(tmp_path / "prepared"):
        raise OSError(code, os.strerror(code))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), atomic_folder(tmp_path / "file" / "prepared"):
        pass


def test_temporary_folders_of_dead_processes_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    names = {
        name: tmp_path / f".prepared.{name}.tmp"
        for name in (f"{here}.{dead.pid}", f"{here}.{os.getppid()}", "other.1", "other.2", "other.3")
    }
    for folder in names.values():
        folder.mkdir()
    long_ago = time.time() - 48 * 3600
    (names["other.3"] / "tokens.bin").write_text("still written")
    for name in ("other.1", "other.3"):
        os.utime(names[name], (long_ago, long_ago))
    with atomic_folder(tmp_path / "prepared"):
        pass
    kept = {names[name].name for name in (f"{here}.{os.getppid()}", "other.2", "other.3")}
    assert {path.name for path in tmp_path.iterdir()} == {"prepared", *kept}


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path, prepared: Path) -> None:
    cut = copy_folder(prepared, tmp_path / "cut")
    (cut / "tokens.bin").write_bytes((cut / "tokens.bin").read_bytes()[:-2])
    with pytest.raises(ConfigError, match=r"cut: tokens\.bin damaged or missing; remove the folder"):
        load_prepared(cut)
    missing = copy_folder(prepared, tmp_path / "missing")
    (missing / "train.npy").unlink()
    with pytest.raises(ConfigError, match=r"train\.npy damaged or missing"):
        load_prepared(missing)
    newer = copy_folder(prepared, tmp_path / "newer")
    (newer / "prepared.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(ConfigError, match="prepared format 99, this version reads 1"):
        load_prepared(newer)
    (newer / "prepared.json").write_text('{"version": 1')
    with pytest.raises(ConfigError, match="not readable as prepared data"):
        load_prepared(newer)


def test_hashes_depend_on_contents_and_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    assert hash_files(paths) != hash_files(paths[::-1])
    assert hash_files(paths[:1]) == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    paths[0].write_bytes(bytes(5 << 20) + b"the end")
    assert hash_files(paths) == hashlib.sha256(bytes(5 << 20) + b"the end" + b"b").hexdigest()


def test_a_prepared_folder_that_data_names_has_priority_over_an_earlier_one_and_each_is_checked(tmp_path: Path) -> None:
    calls: list[tuple[str, Path]] = []

    def find(path: Path | None, out_dir: Path) -> Path | None:
        calls.clear()
        checks = {name: lambda folder, name=name: calls.append((name, folder)) for name in ("check_fits", "check_same_source")}
        return find_prepared(path and str(path), out_dir, **checks)  # type: ignore[arg-type]

    given, earlier, new = tmp_path / "given", tmp_path / "earlier", tmp_path / "new"
    for folder in (given, earlier):
        folder.mkdir()
        (folder / "prepared.json").write_text("{}")
    assert find(given, earlier) == given and calls == [("check_fits", given)]
    assert find(tmp_path, earlier) == find(None, earlier) == earlier
    assert calls == [("check_same_source", earlier), ("check_fits", earlier)]
    assert find(tmp_path, new) is None and not calls


KILLED_WHILE_MOVED_ASIDE = """
import os, pathlib, sys
from recipes.data.shards import moved_aside
folder, makes_new = pathlib.Path(sys.argv[1]), sys.argv[2] == "True"
with moved_aside(folder):
    if makes_new:
        folder.mkdir()
        (folder / "content").write_text("new")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("makes_new", [False, True])
def test_a_folder_that_a_killed_process_moved_aside_comes_back_unless_there_is_a_new_one(tmp_path: Path, makes_new: bool) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "content").write_text("old")
    done = run_command([sys.executable, "-c", KILLED_WHILE_MOVED_ASIDE, str(folder), str(makes_new)], ROOT, 60)
    assert done.returncode == -9 and (tmp_path / ".prepared.old" / "content").read_text() == "old"
    for _ in range(2):
        undo_moved_aside(folder)
        assert [path.name for path in tmp_path.iterdir()] == ["prepared"]
        assert (folder / "content").read_text() == ("new" if makes_new else "old")


def test_a_replaced_folder_comes_back_after_an_error_and_is_removed_after_success(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    with pytest.raises(ConfigError), moved_aside(folder):
        folder.mkdir()
        raise ConfigError("refused")
    with moved_aside(folder):
        assert not folder.exists()
        folder.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["prepared"]


def test_a_folder_that_was_prepared_for_another_modality_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text('{"version": 1, "kind": "image"}')
    with pytest.raises(DataMismatch, match="prepared from image data, not from text; point --data at text or choose another place"):
        load_prepared(tmp_path)


def test_items_that_were_left_out_as_too_short_are_counted_with_their_setting(tmp_path: Path) -> None:
    for counts, note in ({}, ""), ({"short": 0}, ""), ({"short": 9}, "9 are left out as shorter than data.min_seconds 0.5"):
        (tmp_path / "prepared.json").write_text(json.dumps({"counts": counts, "settings": {"data.min_seconds": 0.5}}))
        assert note_on_short(tmp_path) == note
