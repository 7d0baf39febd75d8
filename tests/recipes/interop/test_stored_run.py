"""What --from may name. tests/recipes/finetune/test_trunk.py has the bad input."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.interop.stored_run import find_stored_run, tokenizer_folder
from tests.launching import tiny_recipe
from tests.recipes.interop.stored_models import STEP, small_recipes


def test_a_run_dir_and_its_checkpoint_folder_name_the_same_run(runs: Path) -> None:
    run = find_stored_run(runs / "vision")
    assert run == find_stored_run(runs / "vision" / "checkpoints" / f"step_{STEP:08d}")
    assert (run.run_dir, run.checkpoint.name) == (runs / "vision", f"step_{STEP:08d}")
    assert run.recipe == small_recipes()["vision"] and run.content["release"] == "0.7.0"


def test_an_error_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--start \S+/nowhere: no such folder"):
        find_stored_run(tmp_path / "nowhere", "--start ")


def test_the_tokenizer_is_with_the_prepared_data_or_in_the_run_dir(tmp_path: Path) -> None:
    given = tmp_path / "given"
    recipe = tiny_recipe(data__path=given)
    assert tokenizer_folder(tmp_path, recipe) is None
    (tmp_path / "tokenizer.json").touch()
    assert tokenizer_folder(tmp_path, recipe) == tmp_path
    given.mkdir()
    for name in ("tokenizer.model", "prepared.json"):
        (given / name).touch()
    assert tokenizer_folder(tmp_path, recipe) == given
    (tmp_path / "prepared").mkdir()
    assert tokenizer_folder(tmp_path, recipe) == tmp_path, "the run's own prepared data come before data.path"
