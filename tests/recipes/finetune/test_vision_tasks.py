"""The vision task has the published settings for wide networks, and settings that need no extra for narrow ones."""

from dataclasses import replace

import pytest

from recipes.check import check_recipe
from recipes.config import Recipe
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe
from recipes.modalities.vision import Vision
from recipes.settings import recipe_from_dict, recipe_to_dict
from recipes.vision import vision_base, vision_large, vision_tiny


def of(network: Recipe) -> Recipe:
    """Return the recipe of the task classify."""
    return vision_recipe("classify", VISION_TASKS["classify"], network)


@pytest.mark.parametrize(("network", "epochs", "drop_path"), [(vision_base(), 100, 0.2), (vision_large(), 50, 0.25)])
def test_wide_networks_get_the_published_settings(network: Recipe, epochs: int, drop_path: float) -> None:
    """data2vec.md section 10.4."""
    recipe = of(network)
    optim, data = recipe.optim, recipe.data
    assert (optim.lr, optim.layer_decay, optim.weight_decay, optim.schedule) == (4e-3, 0.65, 0.05, "cosine")
    assert optim.last_lr == pytest.approx(1e-6) and recipe.run.global_batch_size == 1024
    assert (recipe.finetune.epochs, recipe.finetune.warmup_share, recipe.model.block.drop_path) == (epochs, 0.1, drop_path)
    assert (data.mixup_alpha, data.cutmix_alpha, data.erase_prob) == (0.8, 1.0, 0.25)  # type: ignore[attr-defined]
    assert (data.rand_augment_ops, data.rand_augment_magnitude) == (2, 27), "9 of timm's 10"  # type: ignore[attr-defined]
    assert recipe.objective.label_smoothing == 0.1  # type: ignore[attr-defined]
    head = recipe.objective.head  # type: ignore[attr-defined]
    assert (head.reads, head.norm, head.hidden, head.init_std) == ("mean", True, "none", pytest.approx(2e-5))


def test_narrow_networks_get_settings_that_need_no_extra() -> None:
    recipe = of(vision_tiny())
    assert not recipe.data.rand_augment_ops and not recipe.data.erase_prob  # type: ignore[attr-defined]
    assert recipe.run.global_batch_size < 100
    check_recipe(recipe)


def test_the_network_stays_as_it_was_pre_trained_but_for_its_dropouts() -> None:
    frontend = replace(vision_base().frontend, relative_bias="per_layer")  # type: ignore[call-arg]
    network = replace(vision_base(), frontend=frontend)
    recipe = of(network)
    assert recipe.frontend == frontend
    block = replace(recipe.model.block, drop_path=network.model.block.drop_path)
    assert replace(recipe.model, attention_dropout=0.05, block=block) == network.model


def test_a_recipe_survives_config_json() -> None:
    recipe = of(vision_tiny())
    assert recipe_from_dict(recipe_to_dict(recipe), Vision.kinds) == recipe
