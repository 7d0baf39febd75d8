"""Scanning: the same result from any number of processes, bad items with reasons, and a fingerprint of the items."""

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from recipes.data import scanning
from recipes.data.media import BadItem, Files, UndecodableError
from recipes.data.media_items import save_items
from recipes.data.progress import ByteProgress
from recipes.data.scanning import Scanned, scan_items
from recipes.errors import ConfigError


def scan_length(file: BinaryIO, reject: bytes = b"x") -> int:
    """Return the length of a file. A file that begins with `reject` is bad."""
    content = file.read()
    if content.startswith(reject):
        raise UndecodableError("it begins with x")
    return len(content)


def die(file: BinaryIO) -> int:
    """End the process without cleanup, as the kernel does if memory runs out."""
    os._exit(9)


def scan(
    files: Path, folder: Path, scan: scanning.Scan | None = scan_length, num_processes: int = 1, extra: tuple[str, ...] = ()
) -> Scanned:
    folder.mkdir(exist_ok=True)
    paths = [*sorted(path.name for path in files.iterdir()), *extra]
    place = save_items(Files("data", str(files), paths), folder)
    progress = ByteProgress("scanning", 0, show_bar=False, log=print)
    scanned = scan_items(folder, "data", place, scan=scan, num_items=len(paths), num_processes=num_processes, progress=progress)
    assert progress.num_bytes == sum(path.stat().st_size for path in files.iterdir())
    return scanned


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """a.wav of 1 byte, b.wav of 2 bytes, ...; xx.wav is bad."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, name in enumerate("abcdefg", start=1):
        (folder / f"{name}.wav").write_bytes(b"." * number)
    (folder / "xx.wav").write_bytes(b"x")
    return folder


def test_lengths_are_in_order_and_bad_items_have_reasons(tmp_path: Path, files: Path) -> None:
    scanned = scan(files, tmp_path / "out", extra=("gone.wav",))
    assert scanned.lengths_N.tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0]
    expected = [BadItem(str(files / "xx.wav"), "it begins with x"), BadItem(str(files / "gone.wav"), "No such file or directory")]
    assert scanned.bad == expected


def test_without_a_scan_missing_files_are_bad_and_all_others_have_length_1(tmp_path: Path, files: Path) -> None:
    scanned = scan(files, tmp_path / "out", None, extra=("gone.wav",))
    assert scanned.lengths_N.tolist() == [1] * 8 + [0]
    assert [item.where for item in scanned.bad] == [str(files / "gone.wav")]


def test_two_processes_give_the_same_as_one(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = scan(files, tmp_path / "out")
    monkeypatch.setattr(scanning, "ITEMS_PER_PROCESS", 1)
    two = scan(files, tmp_path / "out", partial(scan_length, reject=b"x"), num_processes=2)
    assert (two.lengths_N.tolist(), two.bad, two.fingerprint) == (one.lengths_N.tolist(), one.bad, one.fingerprint)


def test_few_items_are_scanned_by_this_process_alone_however_large_num_processes_is(tmp_path: Path, files: Path) -> None:
    assert (
        scan(files, tmp_path / "out", lambda file: len(file.read()), num_processes=9).lengths_N[-1] == 1
    )  # a lambda cannot be sent to another process


def test_several_tasks_give_the_same_lengths_and_bad_items_as_one(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "a.wav").write_bytes(b"x")
    one = scan(files, tmp_path / "out")
    monkeypatch.setattr(scanning, "ITEMS_PER_TASK", 3)
    several = scan(files, tmp_path / "out")
    assert several.lengths_N.tolist() == one.lengths_N.tolist() and several.bad == one.bad and len(one.bad) == 2


def test_a_killed_process_is_one_line(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "ITEMS_PER_PROCESS", 1)
    with pytest.raises(ConfigError, match="one of 2 scanning processes ended with exit code 9; use fewer"):
        scan(files, tmp_path / "out", die, num_processes=2)


def test_the_fingerprint_is_of_names_lengths_and_sizes_not_of_the_path(tmp_path: Path, files: Path) -> None:
    first = scan(files, tmp_path / "out", None).fingerprint
    assert scan(files, tmp_path / "out").fingerprint != first, "the same names and sizes, different lengths"
    moved = files.rename(tmp_path / "moved")
    assert scan(moved, tmp_path / "out", None).fingerprint == first
    (moved / "a.wav").write_bytes(b"..")
    assert (changed := scan(moved, tmp_path / "out", None).fingerprint) != first
    (moved / "a.wav").rename(moved / "aa.wav")
    assert scan(moved, tmp_path / "out", None).fingerprint not in (first, changed)


def test_items_of_one_file_are_distinguished_from_others_in_any_task(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "ITEMS_PER_TASK", 3)
    assert scan(files, tmp_path / "out", None).first_N.tolist() == list(range(8))
    folder = tmp_path / "twice"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b".")
    place = save_items(Files("data", str(folder), ["a.wav", "gone.wav", "./a.wav", str(folder / "a.wav"), "gone.wav"]), tmp_path / "out")
    progress = ByteProgress("scanning", 0, show_bar=False, log=print)
    scanned = scan_items(tmp_path / "out", "data", place, scan=None, num_items=5, num_processes=1, progress=progress)
    assert scanned.first_N.tolist() == [0, 1, 0, 0, 1]
