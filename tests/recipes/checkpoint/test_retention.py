"""Which checkpoints stay: the last ones and every k-th, never without the newest, and no half of one that goes."""

import shutil
from pathlib import Path

import pytest

from recipes.checkpoint.layout import candidates, newest, step_folder, step_of
from recipes.checkpoint.retention import apply_retention, outdated, remove_folder, remove_leftovers
from recipes.config import CheckpointConfig
from tests.recipes.checkpoint.test_layout import make_checkpoint

STEPS = (5, 10, 15, 20, 25, 30)


@pytest.mark.parametrize(
    ("config", "stay"),
    [
        (CheckpointConfig(keep_last=2), [25, 30]),
        (CheckpointConfig(keep_last=1, keep_every_steps=10), [10, 20, 30]),
        (CheckpointConfig(keep_last=2, keep_every_steps=15), [15, 25, 30]),
        (CheckpointConfig(keep_last=100), list(STEPS)),
        (CheckpointConfig(keep_last=0), [30]),
        (CheckpointConfig(keep_last=-1), [30]),
    ],
    ids=["last", "every", "both", "all", "none asked", "fewer than none"],
)
def test_the_last_and_every_kth_stay_and_always_the_newest(config: CheckpointConfig, stay: list[int], tmp_path: Path) -> None:
    for step in STEPS:
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000030\n")
    apply_retention(tmp_path, config)
    assert sorted(map(step_of, candidates(tmp_path))) == stay
    assert newest(tmp_path) == step_folder(tmp_path, 30)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", *(f"step_{step:08d}" for step in stay)]


def test_what_lies_beyond_the_newest_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    """A run that fell back: the later folders are damaged; they must not push a good one out."""
    for step in STEPS:
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000015\n")
    apply_retention(tmp_path, CheckpointConfig(keep_last=2))
    assert [step_of(path) for path in candidates(tmp_path)] == [15, 10]
    assert all(step_folder(tmp_path, step).exists() for step in (20, 25, 30)) and not step_folder(tmp_path, 5).exists()


def test_outdated_names_the_worst_candidates() -> None:
    folders = [Path(f"step_{step:08d}") for step in (30, 20, 10, 5)]
    assert outdated(folders, CheckpointConfig(keep_last=1)) == folders[1:]
    assert outdated([], CheckpointConfig(keep_last=1)) == []


def test_a_checkpoint_goes_by_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it emptied in place, a kill in between would leave half of it under a valid name."""
    folder, seen = make_checkpoint(tmp_path, 5), []
    really = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        seen.append((path.name, path.exists(), folder.exists()))
        really(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    remove_folder(folder)
    assert [entry for entry in seen if entry[1]] == [(".step_00000005.old", True, False)]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_half_a_removal_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 5)
    shutil.copytree(folder, folder.with_name(".step_00000005.old"))
    remove_folder(folder)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_leftovers_of_a_killed_launch_go_and_checkpoints_stay(tmp_path: Path) -> None:
    remove_leftovers(tmp_path)  # a run dir without checkpoints
    good, folder = make_checkpoint(tmp_path, 5), tmp_path / "checkpoints"
    for name in (".step_00000010.tmp", ".step_00000002.old"):
        shutil.copytree(good, folder / name)
    (folder / "latest").write_text("step_00000005\n")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000005"] and newest(tmp_path) == good
