"""Hugging Face names and settings of Data2VecVision, on the golden model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import fairseq_vision
from recipes.interop.hf_vision import averages_outputs, vision_may_lack, vision_names, vision_recipe
from recipes.vision import vision_base

CASE = "hf/vision_shared"
NORM = {"encoder.norm.weight", "encoder.norm.bias"}
"""Names in the pooler, which the golden model does not have."""
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


@pytest.fixture
def recipe(settings: dict[str, Any]) -> Recipe:
    return vision_recipe(vision_base(), settings)


def stacked(model: State, names: str | list[str]) -> Tensor:
    return model[names] if isinstance(names, str) else torch.cat([model[name] for name in names])


def test_every_tensor_means_what_the_golden_fairseq_name_means(
    recipe: Recipe, state: Callable[[str], State], hf_names: Callable[[str], dict[str, Any]]
) -> None:
    model, names = state(f"{CASE}/model"), hf_names("vision")
    fairseq = {name: stacked(model, hf) for name, hf in names.items() if name not in NORM}
    theirs, ours = fairseq_vision.vision_names(recipe).to_ours(fairseq), vision_names(recipe).to_ours(model)
    assert ours.keys() == theirs.keys() and len(ours) == 5 + 4 * 14
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=0, rtol=0, msg=name)
    for name in NORM:
        assert vision_names(recipe).our_name(names[name]) == fairseq_vision.vision_names(recipe).our_name(name)


def test_through_our_names_and_back_is_the_identity(recipe: Recipe, state: Callable[[str], State]) -> None:
    model, table = state(f"{CASE}/model"), vision_names(recipe)
    back = table.to_theirs(table.to_ours(model), model)
    assert list(back) == list(model)
    for name, tensor in model.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0, msg=name)


def test_the_norm_of_a_model_without_mean_pooling_is_the_final_norm_too(recipe: Recipe) -> None:
    assert vision_names(recipe).our_name("layernorm.bias") == "trunk.encoder.final_norm.bias"


def test_one_bias_table_in_each_block(recipe: Recipe) -> None:
    name = "encoder.layer.2.attention.attention.relative_position_bias.relative_position_bias_table"
    assert vision_names(recipe).our_name(name) == "trunk.frontend.relative_bias.2.weight"


def test_recipe_of_the_golden_configuration(recipe: Recipe) -> None:
    model = recipe.model
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size, model.num_attention_heads) == (4, 64, 128, 4)
    assert model.block == BlockConfig(normalize_before=True, layernorm_epsilon=1e-12, key_bias=False, layer_scale=0.1, drop_path=0.1)
    assert recipe.frontend == VisionFrontendConfig(image_size=64, patch_size=8)
    assert (model.hidden_dropout, model.attention_dropout, recipe.teacher.average_top_k_layers) == (0.0, 0.0, 4)


def test_every_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    """Every setting differs from the golden model, from its default, and from every other setting."""
    settings |= {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "hidden_act": "relu"}
    settings |= {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.2, "drop_path_rate": 0.3, "layer_norm_eps": 1e-7}
    settings |= {"layer_scale_init_value": 0.7, "initializer_range": 0.05, "image_size": 60, "patch_size": 12, "num_channels": 4}
    settings |= {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    template = replace(vision_base(), model=replace(vision_base().model, head_layers=3))
    model = EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=6,
        hidden_dropout=0.15,
        attention_dropout=0.2,
        activation="relu",
        block=BlockConfig(normalize_before=True, layernorm_epsilon=1e-7, key_bias=False, layer_scale=0.7, drop_path=0.3),
        init_std=0.05,
        head_layers=3,
    )
    assert vision_recipe(template, settings) == replace(
        template,
        model=model,
        frontend=VisionFrontendConfig(image_size=60, patch_size=12, num_channels=4, relative_bias="per_layer"),
        teacher=replace(template.teacher, average_top_k_layers=3),
    )


@pytest.mark.parametrize(("shared", "per_layer", "ours"), [(True, False, "shared"), (False, True, "per_layer"), (False, False, "none")])
def test_relative_bias_and_no_layer_scale_are_translated(settings: dict[str, Any], shared: bool, per_layer: bool, ours: str) -> None:
    flags = {"use_shared_relative_position_bias": shared, "use_relative_position_bias": per_layer, "layer_scale_init_value": 0}
    recipe: Any = vision_recipe(vision_base(), {**settings, **flags})
    assert (recipe.frontend.relative_bias, recipe.model.block.layer_scale) == (ours, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "beit"), ("hidden_act", "silu"), ("use_absolute_position_embeddings", True), ("use_relative_position_bias", True)],
)
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        vision_recipe(vision_base(), {**settings, key: value})


@pytest.mark.parametrize(("config", "averages"), [({}, True), ({"use_mean_pooling": True}, True), ({"use_mean_pooling": False}, False)])
def test_a_configuration_that_does_not_name_use_mean_pooling_averages_as_in_transformers(config: dict[str, Any], averages: bool) -> None:
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 32}
    theirs = Data2VecVisionModel(Data2VecVisionConfig(**small, **config))
    assert averages_outputs(config) == averages == ("layernorm.weight" not in theirs.state_dict())
    assert vision_may_lack(config) == (("trunk.encoder.final_norm.",) if averages else ())
