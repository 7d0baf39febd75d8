"""The section `finetune` can be set in a fine-tuning run only."""

import pytest

from recipes.errors import ConfigError
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.finetune_config import FinetuneConfig
from recipes.settings import apply_overrides, settable
from recipes.text import text_base


def test_a_pre_training_run_has_none_of_its_settings() -> None:
    assert not FinetuneConfig().is_in_use and text_base().finetune == FinetuneConfig()
    assert not [name for name in settable(text_base()) if name.startswith("finetune.")]
    with pytest.raises(ConfigError, match=r"^--set finetune\.epochs: recipe text_base has no such key"):
        apply_overrides(text_base(), ["finetune.epochs=3"])


def test_a_fine_tuning_run_has_all_of_them() -> None:
    recipe = text_recipe("classify", TEXT_TASKS["classify"], text_base())
    assert recipe.finetune.is_in_use and "finetune.seeds" in settable(recipe)
    assert apply_overrides(recipe, ["finetune.epochs=3"]).finetune.epochs == 3
