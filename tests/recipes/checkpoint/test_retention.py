"""Which checkpoints are kept: the last ones and every k-th, always the newest. No partly removed checkpoint can be read."""

import shutil
from pathlib import Path

import pytest

from recipes.checkpoint.layout import best_folder, candidates, newest, step_folder, step_of
from recipes.checkpoint.retention import apply_retention, outdated, remove_folder, remove_leftovers
from recipes.config import CheckpointConfig
from tests.recipes.checkpoint.test_layout import make_checkpoint

STEPS = (5, 10, 15, 20, 25, 30)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CheckpointConfig(keep_last=2), [25, 30]),
        (CheckpointConfig(keep_last=1, keep_every_steps=10), [10, 20, 30]),
        (CheckpointConfig(keep_last=2, keep_every_steps=15), [15, 25, 30]),
        (CheckpointConfig(keep_last=100), list(STEPS)),
        (CheckpointConfig(keep_last=0), [30]),
        (CheckpointConfig(keep_last=-1), [30]),
    ],
    ids=["last", "every", "both", "all", "zero", "negative"],
)
def test_the_last_and_every_kth_are_kept_and_always_the_newest(config: CheckpointConfig, kept: list[int], tmp_path: Path) -> None:
    for step in STEPS:
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000030\n")
    apply_retention(tmp_path, config)
    assert sorted(map(step_of, candidates(tmp_path))) == kept
    assert newest(tmp_path) == step_folder(tmp_path, 30)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", *(f"step_{step:08d}" for step in kept)]


def test_checkpoints_after_the_one_that_latest_names_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    """After a fallback the later folders are damaged. They must not cause the removal of a good checkpoint."""
    for step in STEPS:
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "latest").write_text("step_00000015\n")
    apply_retention(tmp_path, CheckpointConfig(keep_last=2))
    assert [step_of(path) for path in candidates(tmp_path)] == [15, 10]
    assert all(step_folder(tmp_path, step).exists() for step in (20, 25, 30)) and not step_folder(tmp_path, 5).exists()


def test_outdated_returns_the_oldest_candidates() -> None:
    folders = [Path(f"step_{step:08d}") for step in (30, 20, 10, 5)]
    assert outdated(folders, CheckpointConfig(keep_last=1)) == folders[1:]
    assert outdated([], CheckpointConfig(keep_last=1)) == []


def test_a_checkpoint_is_renamed_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were removed in place, a kill during the removal would leave a part of it under a valid name."""
    folder, seen = make_checkpoint(tmp_path, 5), []
    original = shutil.rmtree

    def watched(path: Path, **options: bool) -> None:
        seen.append((path.name, path.exists(), folder.exists()))
        original(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    remove_folder(folder)
    assert [entry for entry in seen if entry[1]] == [(".step_00000005.old", True, False)]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_interrupted_removal_does_not_block_the_next_one(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 5)
    shutil.copytree(folder, folder.with_name(".step_00000005.old"))
    remove_folder(folder)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_leftovers_of_a_killed_launch_are_removed_and_checkpoints_kept(tmp_path: Path) -> None:
    remove_leftovers(tmp_path)  # a run dir without checkpoints
    good, folder = make_checkpoint(tmp_path, 5), tmp_path / "checkpoints"
    for name in (".step_00000010.tmp", ".step_00000002.old"):
        shutil.copytree(good, folder / name)
    (folder / "latest").write_text("step_00000005\n")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step_00000005"] and newest(tmp_path) == good


def test_the_checkpoint_of_the_best_evaluation_is_never_removed_until_another_one_is_the_best(tmp_path: Path) -> None:
    for step in STEPS:
        make_checkpoint(tmp_path, step)
    folder = tmp_path / "checkpoints"
    (folder / "latest").write_text("step_00000030\n")
    (folder / "best").write_text("step_00000010\n")
    apply_retention(tmp_path, CheckpointConfig(keep_last=1))
    assert [step_of(path) for path in candidates(tmp_path)] == [30, 10] and best_folder(tmp_path) == step_folder(tmp_path, 10)
    (folder / "best").write_text("step_00000030\n")
    apply_retention(tmp_path, CheckpointConfig(keep_last=1))
    assert [step_of(path) for path in candidates(tmp_path)] == [30]
