"""The recorder of durability notices each thing that a writer can leave out, and nothing where nothing is left out."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.durability import NotDurable, durable_moves


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write(path: Path, text: str = "text") -> Path:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return path


def write_folder(root: Path) -> Path:
    """A folder with a file, a folder and a file in that, all of it synced, under a temporary name."""
    folder = root / ".folder.tmp"
    (folder / "inner").mkdir(parents=True)
    write(folder / "file")
    write(folder / "inner" / "file")
    sync(folder / "inner")
    sync(folder)
    return folder


def publish(root: Path) -> None:
    """All that there is to do."""
    write_folder(root).rename(root / "folder")
    sync(root)
    os.replace(write(root / ".latest.tmp"), root / "latest")
    sync(root)
    (root / "old").rename(root / ".old.gone")
    sync(root)
    shutil.rmtree(root / ".old.gone")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a folder in it that was never synced, which is not the block's fault."""
    (tmp_path / "root" / "old").mkdir(parents=True)
    (tmp_path / "root" / "old" / "file").write_text("old")
    return tmp_path / "root"


def test_a_writer_that_leaves_nothing_out_passes_and_its_final_names_are_recorded_in_order(root: Path) -> None:
    before = os.fsync, os.rename, os.replace, os.unlink, os.remove, os.rmdir
    with durable_moves(root) as recorder:
        publish(root)
        (root / ".scratch").write_text("scratch")
        (root / ".scratch").rename(root / ".scratch.2")
        (root / ".scratch.2").unlink()
    assert recorder.moves == ["folder", "latest"]
    assert (os.fsync, os.rename, os.replace, os.unlink, os.remove, os.rmdir) == before


def content_not_synced(root: Path) -> None:
    (root / ".file.tmp").write_text("text")
    (root / ".file.tmp").rename(root / "file")
    sync(root)


def content_synced_after_the_rename(root: Path) -> None:
    (root / ".file.tmp").write_text("text")
    (root / ".file.tmp").rename(root / "file")
    sync(root / "file")
    sync(root)


def content_synced_before_it_was_flushed(root: Path) -> None:
    with (root / ".file.tmp").open("w") as file:
        file.write("text")
        os.fsync(file.fileno())
    (root / ".file.tmp").rename(root / "file")
    sync(root)


def content_changed_after_its_sync(root: Path) -> None:
    with write(root / ".file.tmp").open("a") as file:
        file.write("more")
    (root / ".file.tmp").replace(root / "file")
    sync(root)


def content_changed_under_its_final_name(root: Path) -> None:
    write(root / ".file.tmp").replace(root / "file")
    sync(root)
    (root / "file").write_text("more")


def another_file_with_the_number_of_one_that_was_synced(root: Path) -> None:
    write(root / ".file.tmp").unlink()
    (root / ".file.tmp").write_text("text")
    (root / ".file.tmp").rename(root / "file")
    sync(root)


def folder_of_unsynced_names(root: Path) -> None:
    folder = write_folder(root)
    write(folder / "second")
    folder.rename(root / "folder")
    sync(root)


def folder_with_an_unsynced_file(root: Path) -> None:
    folder = write_folder(root)
    (folder / "inner" / "second").touch()
    sync(folder / "inner")
    folder.rename(root / "folder")
    sync(root)


def folder_never_synced(root: Path) -> None:
    (root / ".folder.tmp").mkdir()
    write(root / ".folder.tmp" / "file")
    (root / ".folder.tmp").rename(root / "folder")
    sync(root)


def name_not_synced(root: Path) -> None:
    write_folder(root).rename(root / "folder")


def name_synced_before_the_rename(root: Path) -> None:
    folder = write_folder(root)
    sync(root)
    folder.rename(root / "folder")


def another_name_given_first(root: Path) -> None:
    write_folder(root).rename(root / "folder")
    os.replace(write(root / ".latest.tmp"), root / "latest")
    sync(root)


def removed_before_its_name_was(root: Path) -> None:
    (root / "old").rename(root / ".old.gone")
    shutil.rmtree(root / ".old.gone")
    sync(root)


def folder_above_not_synced(root: Path) -> None:
    (root / "above").mkdir()
    write(root / "above" / ".file.tmp").rename(root / "above" / "file")
    sync(root / "above")


def in_another_thread(root: Path) -> None:
    thread = threading.Thread(target=name_not_synced, args=[root])
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("leave_out", "said"),
    [
        (content_not_synced, ".file.tmp was never synced (renamed to file)"),
        (content_synced_after_the_rename, ".file.tmp was never synced (renamed to file)"),
        (content_synced_before_it_was_flushed, ".file.tmp was synced before its last change (renamed to file)"),
        (content_changed_after_its_sync, ".file.tmp was synced before its last change (renamed to file)"),
        (content_changed_under_its_final_name, "file was synced before its last change (at the end)"),
        (another_file_with_the_number_of_one_that_was_synced, ".file.tmp was never synced (renamed to file)"),
        (folder_of_unsynced_names, ".folder.tmp was synced before its last change (renamed to folder)"),
        (folder_with_an_unsynced_file, ".folder.tmp/inner/second was never synced (renamed to folder)"),
        (folder_never_synced, ".folder.tmp was never synced (renamed to folder)"),
        (name_not_synced, "folder was renamed, and . not synced afterwards"),
        (name_synced_before_the_rename, "folder was renamed, and . not synced afterwards"),
        (another_name_given_first, "latest is renamed before the name of folder was synced"),
        (removed_before_its_name_was, ".old.gone/file is removed before the loss of the name old was synced"),
        (folder_above_not_synced, "above is new, and . was not synced since"),
        (in_another_thread, "folder was renamed, and . not synced afterwards"),
    ],
)
def test_each_omission_is_named(root: Path, leave_out: Callable[[Path], None], said: str) -> None:
    with pytest.raises(NotDurable) as caught, durable_moves(root):
        leave_out(root)
    assert said in str(caught.value).splitlines(), str(caught.value)


def test_an_error_of_the_block_goes_first_and_everything_is_put_back(root: Path) -> None:
    before = os.fsync, os.rename
    with pytest.raises(ZeroDivisionError), durable_moves(root):
        name_not_synced(root)
        raise ZeroDivisionError
    assert (os.fsync, os.rename) == before


def test_what_lies_outside_is_nobodys_business(root: Path, tmp_path: Path) -> None:
    with durable_moves(root) as recorder:
        content_not_synced(tmp_path)
    assert recorder.moves == []
