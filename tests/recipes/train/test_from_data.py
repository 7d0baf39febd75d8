"""Settings that follow from the data: a run that has begun gives back what it has recorded, a new one changes nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.checkpoint.layout import newest, read_manifest, write_manifest
from recipes.config import RunConfig
from recipes.settings import apply_overrides, recipe_to_dict, with_values
from recipes.train.from_data import recorded, with_stored_values
from recipes.train.resume import check_same_recipe
from tests.launching import tiny_recipe

VALUES = {"guard.spike_window": 9, "optim.final_lr_scale": 0.5, "optim.betas": [0.8, 0.9]}


def test_a_run_that_has_begun_gives_back_the_values_of_its_config(tiny_run: Path, tmp_path: Path) -> None:
    run, recipe = Path(shutil.copytree(tiny_run, tmp_path / "run")), tiny_recipe()
    assert with_stored_values(run, recipe) == recipe, "this run has recorded none"
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | recorded(VALUES)))
    found = with_stored_values(run, recipe)
    assert found == with_values(recipe, VALUES)
    assert (found.guard.spike_window, found.optim.final_lr_scale, found.optim.betas) == (9, 0.5, (0.8, 0.9))


def test_the_values_are_read_from_the_newest_checkpoint_if_config_json_is_gone(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    checkpoint = newest(run)
    assert checkpoint is not None
    manifest = read_manifest(checkpoint)
    write_manifest(checkpoint, replace(manifest, metadata=manifest.metadata | recorded(VALUES)))
    (run / "config.json").unlink()
    assert with_stored_values(run, tiny_recipe()).guard.spike_window == 9


def test_a_setting_that_is_given_now_stays(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | recorded({"run.log_steps": 9, "run.save_steps": 9})))
    asked = apply_overrides(replace(tiny_recipe(), run=RunConfig()), ["run.log_steps=3"])
    found = with_stored_values(run, asked).run
    assert (found.log_steps, found.save_steps) == (3, 9)


def test_a_run_without_an_update_has_no_values(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("damaged, and not read")
    assert with_stored_values(tmp_path, tiny_recipe()) == tiny_recipe()


def test_no_values_leave_no_record() -> None:
    assert recorded({}) == {} and recorded(VALUES) == {"from_data": VALUES}


@pytest.mark.parametrize(("stored", "expected"), [(None, 0.0), (0.0, 0.0), (60.0, 60.0)])
def test_a_run_keeps_its_value_of_a_setting_whose_default_is_newer(stored: float | None, expected: float, tmp_path: Path) -> None:
    """Releases before data.whole_seconds decoded every recording whole, which is 0. A value that is given now stays."""
    recipe = tiny_recipe("speech")
    content = {"recipe": recipe_to_dict(recipe), "release": "0.9.0"}
    content["recipe"]["data"] |= {"whole_seconds": stored}
    if stored is None:
        del content["recipe"]["data"]["whole_seconds"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert with_stored_values(tmp_path, recipe) == recipe, "no update was done"
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    found = with_stored_values(tmp_path, recipe)
    assert found.data.whole_seconds == expected and check_same_recipe(tmp_path, found) == {}
    given = apply_overrides(recipe, ["data.whole_seconds=30"])
    assert with_stored_values(tmp_path, given) == given
