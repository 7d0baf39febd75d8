"""The table of modalities: every recipe finds its objects in it."""

from pathlib import Path

from model.frontends.text import TextFrontend
from recipes.text import RECIPES
from recipes.train.modality import MODALITIES


def test_every_recipe_names_a_modality_that_is_there() -> None:
    assert {build().modality for build in RECIPES.values()} == set(MODALITIES)


def test_text_brings_its_front_end_and_both_splits(sample_prepared: Path) -> None:
    recipe = RECIPES["text_tiny"]()
    assert MODALITIES["text"].build_frontend(recipe).func is TextFrontend  # type: ignore[attr-defined]
    train, heldout = MODALITIES["text"].open_data(recipe, sample_prepared)
    assert len(train) > 20 * len(heldout) > 0
    assert MODALITIES["text"].prepare(recipe, sample_prepared, progress=False, log=print) == sample_prepared
