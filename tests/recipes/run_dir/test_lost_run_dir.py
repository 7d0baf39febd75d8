"""A run dir that is copied, moved, removed or cannot be created: nothing is written at the old path, and a copy has no owner."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.run_dir.lock import RunLock
from recipes.run_dir.run_dir import RunDir, read_config

QUICK = {"heartbeat_seconds": 0.1, "stale_seconds": 0.6}


def test_the_lock_in_a_copy_of_a_run_dir_has_no_owner_and_in_a_moved_run_dir_keeps_it(tmp_path: Path) -> None:
    """Also for a copy of a running run. Locks of earlier releases do not contain the folder."""
    (tmp_path / "run").mkdir()
    owner = RunLock(tmp_path / "run" / ".lock", **QUICK)
    owner.acquire()
    for name in ("copy", "old"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    assert RunLock(tmp_path / "copy" / ".lock", **QUICK).acquire() is None, "it was not taken from an owner"
    old = tmp_path / "old" / ".lock"
    old.write_text(json.dumps({key: value for key, value in json.loads(old.read_text()).items() if key != "folder"}))
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("moved", "old"):
        with pytest.raises(ConfigError, match=rf"{name} is in use by pid {os.getpid()} on "):
            RunLock(tmp_path / name / ".lock", **QUICK).acquire()


def gone(path: Path) -> None:
    shutil.rmtree(path)


def replaced(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.mkdir()


@pytest.mark.parametrize("change", [gone, replaced])
def test_a_run_dir_that_is_removed_or_replaced_is_lost_and_not_created_again(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run" / ".lock", **QUICK)
    lock.acquire()
    lock.check()
    change(tmp_path / "run")
    deadline = time.monotonic() + 5
    while not lock.is_lost and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ConfigError, match=r"run was moved or removed .*; it ends without writing more"):
        lock.check()
    lock.release()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_run_dir_that_was_moved_and_replaced_by_a_link_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run" / ".lock", **QUICK)
    lock.acquire()
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").symlink_to("moved")
    lock.check()
    lock.release()


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 300, "a file/run"])
def test_a_run_dir_that_cannot_be_created_is_an_error_of_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(ConfigError, match=r"^--run-dir .*(too long|Not a directory); name a folder that you may write to"):
        RunDir(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_run_dir_that_cannot_be_read_is_an_error_of_one_line_in_a_dry_run_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--run-dir .*too long; name a folder that you may read and write"):
        read_config(tmp_path / ("x" * 300))


def test_a_log_that_cannot_be_written_because_the_run_dir_was_moved_prints_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    run_dir = RunDir(tmp_path / "run", lines.append)
    (tmp_path / "run").rename(tmp_path / "moved")
    run_dir.event("start")
    assert run_dir.is_lost and not lines and not (tmp_path / "run").exists()
    run_dir.release()
