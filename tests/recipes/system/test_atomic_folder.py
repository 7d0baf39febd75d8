"""Folders that appear as a whole: complete or absent, after errors, kills and power cuts."""

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.system.atomic_folder import atomic_folder, moved_aside, undo_moved_aside
from tests.distributed import run_command
from tests.durability import durable_moves
from tests.launching import ROOT


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


KILLED_WHILE_MOVED_ASIDE = """
import os, pathlib, sys
from recipes.system.atomic_folder import moved_aside
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
