"""A copy of a folder is distinguished from the folder itself, also after a move."""

import shutil
from pathlib import Path

import pytest

from recipes.run_dir.folder import UNKNOWN, Folder


def test_a_copy_is_another_folder_and_a_moved_folder_or_a_link_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = Folder.at(tmp_path / "run")
    assert not run.is_copied_to(Folder.at(tmp_path / "." / "run"))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert run.is_copied_to(Folder.at(tmp_path / "copy"))
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert not run.is_copied_to(Folder.at(tmp_path / "moved")) and not run.is_copied_to(Folder.at(tmp_path / "link"))
    (tmp_path / "run").mkdir()
    assert not run.is_copied_to(Folder.at(tmp_path / "run")), "a new folder at the old path, which may have the same inode"
    assert not UNKNOWN.is_copied_to(run)
    with pytest.raises(FileNotFoundError):
        Folder.at(tmp_path / "nowhere")
