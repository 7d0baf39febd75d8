"""A power cut at any time leaves a whole checkpoint or none, and `latest` names one that exists."""

from pathlib import Path

import pytest

from recipes.checkpoint.layout import step_folder
from recipes.checkpoint.load import CheckpointReader
from recipes.checkpoint.retention import apply_retention, remove_folder
from recipes.config import CheckpointConfig
from recipes.interop.consolidate import consolidate
from tests.distributed import run_distributed
from tests.durability import durable_moves
from tests.recipes.checkpoint.models import write_model
from tests.recipes.checkpoint.test_layout import make_checkpoint
from tests.recipes.checkpoint.topology import Topology, small_recipe


def save_three_times(prepared: Path, run_dir: Path) -> tuple[list[str], list[str]]:
    """On a rank: save two steps and the second one again, and keep one checkpoint. Return the final names in the order of their creation,
    and what exists at the end."""
    from recipes.checkpoint.save import CheckpointSaver
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text"), Topology(), prepared, run_dir)
    saver = CheckpointSaver(run_dir, run.objective, run.world, CheckpointConfig(keep_last=1))
    with durable_moves(run_dir) as recorder:
        for updates in (1, 1, 0):
            run.train(updates)
            saver.begin(run.state.counters, {})
            outcome = saver.finish()
            assert (outcome.problem, outcome.leftover) == (None, None), outcome
    return recorder.moves, sorted(path.name for path in (run_dir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def saved(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The saves in an existing run dir. durable_moves checks that each step was synced before the next."""
    return run_distributed(save_three_times, 1, small_prepared, tmp_path_factory.mktemp("saved"))[0]


def test_a_checkpoint_is_complete_then_visible_then_named(saved: tuple[list[str], list[str]]) -> None:
    moves = [name.rpartition("/")[2] for name in saved[0]]
    assert moves == ["manifest.json", "step_00000001", "latest", *["manifest.json", "step_00000002", "latest"] * 2]


def test_the_older_checkpoint_is_removed_after_the_new_one_exists(saved: tuple[list[str], list[str]]) -> None:
    assert saved[1] == ["latest", "step_00000002"]


def test_a_removed_checkpoint_is_emptied_after_its_rename_is_synced(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make_checkpoint(tmp_path, step)
    with durable_moves(tmp_path) as recorder:
        apply_retention(tmp_path, CheckpointConfig(keep_last=2))
        remove_folder(step_folder(tmp_path, 2))
    assert recorder.moves == []
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


def test_a_consolidated_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    reader = CheckpointReader(write_model(tmp_path / "checkpoint"))
    with durable_moves(tmp_path) as recorder:
        consolidate(reader, "student", tmp_path / "out.safetensors")
    assert recorder.moves == ["out.safetensors"]
