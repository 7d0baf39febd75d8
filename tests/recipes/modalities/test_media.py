"""Checks of a dry run, and the opening of both splits, for recordings and images."""

from pathlib import Path
from typing import Any

import pytest

from recipes.data.heldout import EVAL_MASK_SEED
from recipes.data.media import Files
from recipes.errors import ConfigError
from recipes.modalities.media import check_items, open_splits
from tests.launching import tiny_recipe
from tests.made_up import write_pictures


def test_raw_items_must_exist_and_a_prepared_folder_is_checked_by_its_preparation(tmp_path: Path) -> None:
    from recipes.data.images import IMAGES
    from recipes.modalities.registry import MODALITIES

    asked: list[Path] = []
    raw = write_pictures(tmp_path / "raw")
    check_items(tiny_recipe("vision", data__path=raw), raw, IMAGES, lambda recipe, path: asked.append(path) or path)
    assert asked == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no image in it"):
        check_items(tiny_recipe("vision", data__path=tmp_path / "empty"), tmp_path / "empty", IMAGES, lambda recipe, path: path)
    prepared = MODALITIES["vision"].prepare(tiny_recipe("vision", data__path=raw), tmp_path / "prepared", num_processes=1)
    check_items(tiny_recipe("vision", data__path=prepared), prepared, IMAGES, lambda recipe, path: asked.append(path) or path)
    assert asked == [prepared]


def test_training_has_the_runs_seed_and_the_held_out_split_a_constant(tmp_path: Path) -> None:
    opened: list[dict[str, Any]] = []
    recipe = tiny_recipe("speech", run__seed=7)
    open_splits(lambda folder, split, **options: opened.append({"folder": folder, "split": split, **options}), recipe, tmp_path)
    sections = {"folder": tmp_path, "frontend": recipe.frontend, "mask": recipe.mask, "data": recipe.data}
    assert opened == [sections | {"split": "train", "seed": 7}, sections | {"split": "valid", "seed": EVAL_MASK_SEED}]


def test_items_are_opened_by_the_path_of_the_recipe_unchanged_with_its_column_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """./nowhere is a folder. The name nowhere could be a data set of the hub."""
    from recipes.data.audio import AUDIO

    asked: list[Any] = []
    found = Files("data", "/", [], note="a line")
    monkeypatch.setattr("recipes.data.media_source.open_media", lambda *args, **options: asked.append((args, options)) or found)
    recipe = tiny_recipe("speech", data__path="./nowhere", data__column="place", data__split="dev")
    assert check_items(recipe, Path("./nowhere"), AUDIO, lambda recipe, path: path) == "a line"
    assert asked == [(("./nowhere", AUDIO), {"column": "place", "split": "dev"})]
