"""Listings: every file below a folder once, also through links, and a reason for each entry that was skipped."""

import os
import re
from pathlib import Path

import pytest

from recipes.data.folder import NAMED, count_suffixes, format_names, list_folder, printable, resolve_data_path
from recipes.errors import ConfigError


def fill(folder: Path, *names: str) -> Path:
    """Create empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_files_are_found_at_any_depth_sorted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    fill(tmp_path, "b.txt", "a/c/d.txt", "a/b.txt", "a-b", ".git/x.txt", ".hidden", "a/.x.txt", "[v2]/part*.txt")
    assert list_folder(tmp_path).files == ["[v2]/part*.txt", "a-b", "a/b.txt", "a/c/d.txt", "b.txt"]
    assert (list_folder(tmp_path).hidden, list_folder(tmp_path).skipped) == ([".git", ".hidden", "a/.x.txt"], [])


def test_links_to_folders_are_followed_but_each_folder_is_listed_once(tmp_path: Path) -> None:
    far, data = fill(tmp_path / "far", "x.txt"), fill(tmp_path / "data", "a/b.txt")
    (data / "more").symlink_to(far)
    (data / "zagain").symlink_to(far)
    (data / "a" / "circle").symlink_to(data)
    found = list_folder(data)
    assert found.files == ["a/b.txt", "more/x.txt"]
    assert found.skipped == [f"{data}/a/circle: the same folder as {data}", f"{data}/zagain: the same folder as {data}/more"]


def test_broken_links_and_special_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt")
    (tmp_path / "gone.txt").symlink_to("/not/there.txt")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.txt")  # opening a pipe would block
    found = list_folder(tmp_path)
    assert found.files == ["a.txt"]
    reasons = ["gone.txt: a link to nothing", "loop: Too many levels of symbolic links", "pipe.txt: neither a file nor a folder"]
    assert found.skipped == [f"{tmp_path}/{reason}" for reason in reasons]


def test_a_folder_without_read_permission_is_skipped_as_sub_folder_else_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/x.txt", "b/y.txt")
    refuse_to_list(tmp_path / "b", monkeypatch)
    found = list_folder(tmp_path)
    assert (found.files, found.skipped) == (["a/x.txt"], [f"{tmp_path}/b: Permission denied"])
    with pytest.raises(ConfigError, match=r"b: cannot be read \(Permission denied\); correct its permissions"):
        list_folder(tmp_path / "b")


def refuse_to_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make os.scandir refuse this folder, as for a user without read permission. The tests may run as root, who may read everything."""
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_second_links_to_a_file_and_links_to_a_listed_file_are_dropped(tmp_path: Path) -> None:
    far, data = fill(tmp_path / "far", "x.txt"), fill(tmp_path / "data", "z.txt", "y.txt")
    for name, target in (("a.txt", data / "z.txt"), ("b.txt", far / "x.txt"), ("c.txt", far / "x.txt")):
        (data / name).symlink_to(target)
    found = list_folder(data)
    assert found.files == ["a.txt", "b.txt", "c.txt", "y.txt", "z.txt"]
    assert found.without_duplicates(found.files) == ["b.txt", "y.txt", "z.txt"]
    assert found.without_duplicates(["a.txt", "c.txt"]) == ["a.txt", "c.txt"], "the targets are not in this list"


def test_a_data_path_gives_its_full_path_or_none_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "data", "a.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/data", "data", "./data/../data"):
        assert resolve_data_path(path) == tmp_path / "data"
    assert resolve_data_path("owner/name") is resolve_data_path("data/a.txt/b") is resolve_data_path("~unknown-user/x") is None
    (tmp_path / "loop").symlink_to("loop")
    for path in ("loop", "x" * 300, "a\0b"):
        with pytest.raises(ConfigError, match=r"^--data .*; correct the path or its permissions$"):
            resolve_data_path(path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match=r"^--data pipe\.txt: neither a file nor a folder; copy it into one$"):
        resolve_data_path("pipe.txt")


def test_names_in_a_message_are_counted_shortened_and_printable() -> None:
    assert count_suffixes([]) == "nothing"
    assert count_suffixes(["a.txt.GZ", "b.txt.gz", "c.gz"]) == "2 .txt.gz, 1 .gz"
    assert count_suffixes(["a.MP3", "b.mp3", "c", "d.tsv"]) == "2 .mp3, 1 without suffix, 1 .tsv"
    names = [str(number) for number in range(NAMED + 3)]
    assert format_names(names, "; ") == "0; 1; 2; 3; 4; 3 more" and format_names(names[:NAMED]) == "0, 1, 2, 3, 4"
    assert printable("caf\udce9") == "caf\\udce9"


def test_a_real_folder_and_a_link_whose_name_has_a_meaning_go_before_other_links(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", "z/b/x.txt", "z/deep/y.txt", "v/w.txt")
    far = fill(tmp_path / "far", "f.txt", "below/g.txt")
    for name, target in {
        "a": data / "z" / "b",
        "b": far,
        "c": far / "below",
        "test": far,
        "m/deeper": data / "z" / "deep",
        "test-v": data / "v",
    }.items():
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).symlink_to(target)
    found = list_folder(data, re.compile("test").match)
    assert found.files == ["test-v/w.txt", "test/below/g.txt", "test/f.txt", "z/b/x.txt", "z/deep/y.txt"]
    assert [line.partition(": ")[0] for line in found.skipped] == [f"{data}/{name}" for name in ("a", "b", "c", "m/deeper", "v")]
    assert list_folder(data).files == ["b/below/g.txt", "b/f.txt", "v/w.txt", "z/b/x.txt", "z/deep/y.txt"]
