"""Hugging Face names and settings of Data2VecAudio, on the golden model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import fairseq_speech
from recipes.interop.hf_speech import speech_names, speech_recipe
from recipes.speech import speech_base

CASE = "hf/audio"
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


@pytest.fixture
def recipe(settings: dict[str, Any]) -> Recipe:
    return speech_recipe(speech_base(), settings)


def test_every_tensor_means_what_the_golden_fairseq_name_means(
    recipe: Recipe, state: Callable[[str], State], hf_names: Callable[[str], dict[str, str]]
) -> None:
    model, names = state(f"{CASE}/model"), hf_names("audio")
    assert set(names.values()) == model.keys()
    theirs = fairseq_speech.speech_names(recipe).to_ours({fairseq: model[hf] for fairseq, hf in names.items()})
    ours = speech_names(recipe).to_ours(model)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=0, rtol=0, msg=name)


def test_through_our_names_and_back_is_the_identity(recipe: Recipe, state: Callable[[str], State]) -> None:
    model, table = state(f"{CASE}/model"), speech_names(recipe)
    back = table.to_theirs(table.to_ours(model), model)
    assert list(back) == list(model)
    for name, tensor in model.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0, msg=name)


def test_recipe_of_the_golden_configuration(recipe: Recipe) -> None:
    model = recipe.model
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size, model.num_attention_heads) == (4, 64, 128, 4)
    assert (model.hidden_dropout, model.attention_dropout, model.activation_dropout, model.block.layerdrop) == (0.1, 0.1, 0.1, 0.1)
    assert recipe.frontend == SpeechFrontendConfig(conv_dim=32)
    assert not model.block.normalize_before and recipe.teacher.average_top_k_layers == 4


def test_every_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    """Every setting differs from the golden model, from its default, and from every other setting."""
    settings |= {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "hidden_act": "relu"}
    settings |= {"hidden_dropout": 0.15, "attention_dropout": 0.2, "activation_dropout": 0.3, "layerdrop": 0.4, "initializer_range": 0.3}
    settings |= {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "conv_bias": True}
    settings |= {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 7, "num_conv_pos_embedding_groups": 12}
    template = replace(speech_base(), model=replace(speech_base().model, head_layers=3, head_init="torch"))
    model = EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=6,
        hidden_dropout=0.15,
        attention_dropout=0.2,
        activation_dropout=0.3,
        activation="relu",
        block=BlockConfig(layerdrop=0.4),
        init_std=0.3,
        head_layers=3,
        head_init="torch",
    )
    convolutions: dict[str, Any] = {"conv_dim": 8, "conv_kernels": (10, 3), "conv_strides": (5, 2), "conv_bias": True}
    assert speech_recipe(template, settings) == replace(
        template,
        model=model,
        frontend=SpeechFrontendConfig(**convolutions, pos_conv_depth=2, pos_conv_kernel=7, pos_conv_groups=12),
        teacher=replace(template.teacher, average_top_k_layers=3),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("model_type", "wav2vec2"), ("hidden_act", "silu"), ("feat_extract_activation", "relu"), ("feat_proj_dropout", 0.1)],
        *[("add_adapter", True), ("conv_dim", [32, 64, 32, 32, 32, 32, 32]), ("num_conv_pos_embeddings", 1)],
        ("layer_norm_eps", 1e-12),
    ],
)
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is "):
        speech_recipe(speech_base(), {**settings, key: value})
