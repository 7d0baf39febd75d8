"""The digest of a checkout: what changes it and what does not. The commit of a checkout."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.cluster.checkout import ROOT, checkout_digest, commit

FILES = {"model/a.py": "x = 1\n", "recipes/data/b.py": "", "launch/c.py": "", "ds_configs/d.json": "{}"}


def make(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return checkout_digest(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_changes_the_digest_and_another_folder_does_not(name: str, tmp_path: Path) -> None:
    before = make(tmp_path / "here", FILES)
    assert make(tmp_path / "there", dict(reversed(FILES.items()))) == before
    assert make(tmp_path / "changed", {**FILES, name: FILES[name] + " "}) != before


def test_the_order_of_a_directory_listing_does_not_change_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, glob = make(tmp_path, FILES | {f"model/{letter}.py": letter for letter in "bcde"}), Path.glob
    for key in (str, lambda path: str(path)[::-1]):
        monkeypatch.setattr(Path, "glob", lambda root, pattern, key=key: sorted(glob(root, pattern), key=key, reverse=True))
        assert checkout_digest(tmp_path) == before


def test_a_renamed_a_new_and_a_missing_file_change_the_digest(tmp_path: Path) -> None:
    before = make(tmp_path, FILES)
    (tmp_path / "recipes/data/b.py").rename(tmp_path / "recipes/data/e.py")
    renamed = checkout_digest(tmp_path)
    new = make(tmp_path, {"model/f.py": ""})
    shutil.rmtree(tmp_path / "launch")
    assert len({before, renamed, new, checkout_digest(tmp_path)}) == 4


def test_text_that_moves_from_one_file_to_the_next_changes_the_digest(tmp_path: Path) -> None:
    assert make(tmp_path / "a", {"model/a.py": "xy", "model/b.py": ""}) != make(tmp_path / "b", {"model/a.py": "x", "model/b.py": "y"})


def test_a_file_that_does_not_affect_runs_does_not_change_the_digest(tmp_path: Path) -> None:
    before = make(tmp_path, FILES)
    (tmp_path / "model" / ".#a.py").symlink_to("user@host:1")  # an editor's lock file: a dangling link
    assert make(tmp_path, {"model/__pycache__/a.pyc": "x", "runs/config.json": "{}", "tests/test_a.py": ""}) == before


def test_the_default_is_this_checkout_and_torch_is_not_imported(tmp_path: Path) -> None:
    program = "import sys; from recipes.cluster.checkout import checkout_digest; print(checkout_digest(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [checkout_digest(ROOT), "False"]


def test_the_commit_is_that_of_the_clone_and_none_without_clone_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path) is None, "not a clone"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, timeout=30)
    found = commit(tmp_path)
    assert found is not None and len(found) == 40
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None, "git is not installed"
