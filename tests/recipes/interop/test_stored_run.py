"""What --from may name. tests/recipes/finetune/test_trunk.py has the bad input."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.interop.stored_run import find_stored_run
from tests.recipes.interop.stored_models import STEP, small_recipes


def test_a_run_dir_and_its_checkpoint_folder_name_the_same_run(runs: Path) -> None:
    run = find_stored_run(runs / "vision")
    assert run == find_stored_run(runs / "vision" / "checkpoints" / f"step_{STEP:08d}")
    assert (run.run_dir, run.checkpoint.name) == (runs / "vision", f"step_{STEP:08d}")
    assert run.recipe == small_recipes()["vision"] and run.content["release"] == "0.7.0"


def test_an_error_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--start \S+/nowhere: no such folder"):
        find_stored_run(tmp_path / "nowhere", "--start ")
