"""Conversion of fairseq's text names and settings to ours and back, on the golden student. Other settings are refused by name."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig, LossConfig, TeacherConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq_text import TEACHER_PREFIX, text_names, text_recipe
from recipes.text import text_base, text_tiny

CASE, VOCAB_SIZE = "text/paper", 100
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


@pytest.fixture
def recipe(settings: dict[str, Any]) -> Recipe:
    return text_recipe(text_base(), settings, VOCAB_SIZE)


def parameters_of(state: State) -> list[str]:
    return [name for name in state if not name.endswith("version")]


def test_from_fairseq_and_back_is_the_identity(recipe: Recipe, state: Callable[[str], State]) -> None:
    student, table = state(f"{CASE}/student_init"), text_names(recipe)
    names = parameters_of(student)
    assert len(names) == len(student) - 1 == 72
    back = table.to_theirs(table.to_ours(student), student)
    assert list(back) == names
    for name in names:
        torch.testing.assert_close(back[name], student[name], atol=0, rtol=0, msg=name)


def test_teacher_names_without_prefix_mean_the_same_tensors(recipe: Recipe, state: Callable[[str], State]) -> None:
    student, table = state(f"{CASE}/student_init"), text_names(recipe)
    names = parameters_of(state(f"{CASE}/teacher_final"))
    back = table.to_theirs(table.to_ours(student), names, TEACHER_PREFIX)
    assert len(back) == len(names) == 68
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, student[TEACHER_PREFIX + name], atol=0, rtol=0, msg=name)


def test_every_tensor_has_a_name_of_ours(recipe: Recipe, state: Callable[[str], State]) -> None:
    modules = ("attention.qkv", "attention.proj", "attention_norm", "ffn.fc1", "ffn.fc2", "ffn_norm")
    expected = {f"trunk.encoder.layers.{i}.{module}.{leaf}" for i in range(4) for module in modules for leaf in ("weight", "bias")}
    expected |= {f"trunk.frontend.{name}" for name in ("tokens.weight", "positions.weight", "norm.weight", "norm.bias")}
    expected |= {f"head.layers.{i}.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    ours = text_names(recipe).to_ours(state(f"{CASE}/student_init"))
    assert set(ours) == expected
    assert tuple(ours["trunk.frontend.tokens.weight"].shape) == (128, 64), "rows are padded to a multiple of 128"


def test_a_pre_ln_model_has_a_final_norm(recipe: Recipe) -> None:
    assert text_names(recipe).our_name(TEACHER_PREFIX + "layer_norm.weight") == "trunk.encoder.final_norm.weight"


def test_heads_of_more_layers_are_numbered_without_their_activations(settings: dict[str, Any]) -> None:
    table = text_names(text_recipe(text_base(), {**settings, "head_layers": 3}, VOCAB_SIZE))
    assert table.our_name("encoder.regression_head.4.bias") == "head.layers.2.bias"
    with pytest.raises(ConfigError, match="regression_head"):
        table.our_name("encoder.regression_head.3.bias")


def test_recipe_of_the_released_settings(recipe: Recipe) -> None:
    assert recipe.model == EncoderConfig(
        num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, hidden_dropout=0.0, attention_dropout=0.0
    )
    frontend: Any = recipe.frontend
    assert (frontend.vocab_size, frontend.max_positions, frontend.positions) == (100, 64, "absolute")
    assert recipe.teacher == TeacherConfig(ema_decay=0.9, ema_end_decay=0.99, ema_anneal_end_step=10, average_top_k_layers=3)
    assert (recipe.loss.beta, recipe.loss.scale) == (4, 1)
    assert (recipe.mask, recipe.optim, recipe.run) == (text_base().mask, text_base().optim, text_base().run)


@pytest.mark.parametrize(("theirs", "ours"), [(None, None), (0, None), (-1, None), (0.5, 0.5), (1, 1)])
def test_loss_scale_of_none_or_nothing_positive_is_one_over_root_of_width(settings: dict[str, Any], theirs: Any, ours: Any) -> None:
    assert text_recipe(text_base(), {**settings, "loss_scale": theirs}, VOCAB_SIZE).loss.scale == ours


def test_every_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    """Every setting differs from the golden case, from its default, and from every other setting."""
    encoder = {"layers": 3, "embed_dim": 48, "ffn_embed_dim": 80, "attention_heads": 6, "normalize_before": True}
    dropouts = {"dropout": 0.15, "attention_dropout": 0.2, "activation_dropout": 0.3, "activation_fn": "relu"}
    settings["transformer"] |= {**dropouts, "encoder": settings["transformer"]["encoder"] | encoder}
    settings |= {"max_positions": 90, "head_layers": 1, "loss_beta": 3.0, "loss_scale": 0.5, "ema_transformer_layers_only": False}
    settings |= {"average_top_k_layers": 2, "ema_decay": 0.8, "ema_end_decay": 0.88, "ema_anneal_end_step": 77}
    settings |= {"layer_norm_target_layer": False, "instance_norm_target_layer": True, "layer_norm_targets": True}
    recipe = text_recipe(text_tiny(), settings, 333)
    model = EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=6,
        hidden_dropout=0.15,
        attention_dropout=0.2,
        activation_dropout=0.3,
        activation="relu",
        block=BlockConfig(normalize_before=True),
        head_layers=1,
    )
    teacher = TeacherConfig(
        ema_decay=0.8,
        ema_end_decay=0.88,
        ema_anneal_end_step=77,
        average_top_k_layers=2,
        layer_norms=("instance",),
        average_norms=("layer",),
        shares="nothing",
    )
    frontend, loss = TextFrontendConfig(vocab_size=333, max_positions=90), LossConfig(beta=3.0, scale=0.5)
    assert recipe == replace(text_tiny(), model=model, frontend=frontend, teacher=teacher, loss=loss)


def test_pre_ln_dropouts_and_a_teacher_that_shares_nothing_are_translated(settings: dict[str, Any]) -> None:
    settings["transformer"].update(dropout=0.1, attention_dropout=0.2, activation_dropout=0.0, relu_dropout=0.3)
    settings["transformer"]["encoder"]["normalize_before"] = True
    settings["ema_transformer_layers_only"] = False
    recipe = text_recipe(text_base(), settings, VOCAB_SIZE)
    model = recipe.model
    assert (model.hidden_dropout, model.attention_dropout, model.activation_dropout) == (0.1, 0.2, 0.3)
    assert model.block.normalize_before and recipe.teacher.shares == "nothing"


def test_relu_is_allowed_only_with_a_head_of_one_layer_since_fairseqs_head_has_gelu(settings: dict[str, Any]) -> None:
    settings["transformer"]["activation_fn"] = "relu"
    with pytest.raises(ConfigError, match=r"transformer\.activation_fn is 'relu' with head_layers 2"):
        text_recipe(text_base(), settings, VOCAB_SIZE)
    assert text_recipe(text_base(), {**settings, "head_layers": 1}, VOCAB_SIZE).model.activation == "relu"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("transformer.activation_fn", "gelu_fast"),
        ("transformer.encoder.learned_pos", False),
        ("transformer.no_token_positional_embeddings", True),
        ("transformer.layernorm_embedding", False),
        ("transformer.no_scale_embedding", False),
        ("transformer.encoder.layerdrop", 0.05),
        ("transformer.base_layers", 1),
        ("transformer.quant_noise.pq", 0.1),
        ("group_norm_target_layer", True),
    ],
)
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], path: str, value: Any) -> None:
    changed = copy.deepcopy(settings)
    *sections, key = path.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[key] = value
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")) as caught:
        text_recipe(text_base(), changed, VOCAB_SIZE)
    assert repr(value) in str(caught.value)
