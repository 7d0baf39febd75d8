"""Conversion of fairseq's audio names and settings to ours and back, on the golden student. Other settings are refused by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig, LossConfig, SpanMaskConfig, TeacherConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq_speech import TRANSLATED, parse_conv_layers, speech_names, speech_recipe, teacher_prefix
from recipes.speech import speech_base

CASE = "audio/recipe"
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


def recipe_of(settings: dict[str, Any], **changes: Any) -> Recipe:
    return speech_recipe(speech_base(), {**settings, **changes})


def test_from_fairseq_and_back_is_the_identity(settings: dict[str, Any], state: Callable[[str], State]) -> None:
    student, table = state(f"{CASE}/student_init"), speech_names(recipe_of(settings))
    ours = table.to_ours(student)
    assert (len(student), len(ours)) == (104, 88), "q, k and v of four layers are one"
    back = table.to_theirs(ours, student)
    assert list(back) == list(student)
    for name, tensor in student.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0, msg=name)


def test_teacher_names_without_prefix_mean_the_encoders_tensors(settings: dict[str, Any], state: Callable[[str], State]) -> None:
    recipe = recipe_of(settings)
    student, names, table = state(f"{CASE}/student_init"), state(f"{CASE}/teacher_final"), speech_names(recipe)
    back = table.to_theirs(table.to_ours(student), names, teacher_prefix(recipe))
    assert back.keys() == names.keys()
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, student["encoder." + name], atol=0, rtol=0, msg=name)


def test_the_encoders_norm_is_ours_at_the_entry_of_post_ln_and_at_the_end_of_pre_ln_blocks(settings: dict[str, Any]) -> None:
    post, pre = speech_names(recipe_of(settings)), speech_names(recipe_of(settings, layer_norm_first=True))
    assert post.our_name("encoder.layer_norm.bias") == "trunk.frontend.norm.bias"
    assert pre.our_name("encoder.layer_norm.bias") == "trunk.encoder.final_norm.bias"
    assert post.our_name("layer_norm.bias") == pre.our_name("layer_norm.bias") == "trunk.frontend.feature_norm.bias"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("feature_extractor.conv_layers.0.2.weight", "extractor.layers.0.norm.weight"),
        ("feature_extractor.conv_layers.3.0.bias", "extractor.layers.3.conv.bias"),
        ("encoder.pos_conv.0.weight_g", "positions.layers.0.weight_g"),
        ("encoder.pos_conv.0.weight_v", "positions.layers.0.weight_v"),
        ("encoder.pos_conv.0.parametrizations.weight.original0", "positions.layers.0.weight_g"),
        ("encoder.pos_conv.0.parametrizations.weight.original1", "positions.layers.0.weight_v"),
        ("encoder.pos_conv.0.bias", "positions.layers.0.bias"),
    ],
)
def test_names_of_wav2vec_2s_frontend(settings: dict[str, Any], theirs: str, ours: str) -> None:
    table = speech_names(recipe_of(settings, extractor_mode="default", pos_conv_depth=1))
    assert table.our_name(theirs) == f"trunk.frontend.{ours}"


def test_recipe_of_the_released_settings(settings: dict[str, Any]) -> None:
    recipe, base = recipe_of(settings), speech_base()
    assert recipe.model == EncoderConfig(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=128,
        num_attention_heads=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        head_layers=1,
        head_init="torch",
    )
    assert recipe.frontend == SpeechFrontendConfig(conv_dim=32)
    assert (recipe.mask, recipe.loss) == (SpanMaskConfig(prob=0.65, length=10), LossConfig(beta=0, scale=None))
    assert recipe.teacher == TeacherConfig(
        ema_decay=0.9, ema_end_decay=0.99, ema_anneal_end_step=10, average_top_k_layers=3, layer_norms=("instance",), shares="frontend"
    )
    assert (recipe.data, recipe.optim, recipe.run, recipe.guard) == (base.data, base.optim, base.run, base.guard)


CHANGED = {
    **{"encoder_layers": 3, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 80, "encoder_attention_heads": 6, "layer_norm_first": True},
    **{"encoder_layerdrop": 0.05, "dropout": 0.15, "attention_dropout": 0.2, "activation_dropout": 0.3, "activation_fn": "relu"},
    **{"extractor_mode": "default", "conv_feature_layers": "[(16, 8, 4)] + [(16, 3, 2)] * 2", "conv_bias": True},
    **{"conv_pos": 33, "conv_pos_groups": 8, "pos_conv_depth": 3, "mask_prob": 0.5, "mask_length": 7, "loss_beta": 1.0, "loss_scale": 0.5},
    **{"average_top_k_layers": 2, "ema_decay": 0.8, "ema_end_decay": 0.88, "ema_anneal_end_step": 77, "ema_layers_only": False},
    **{"layer_norm_target_layer": True, "batch_norm_target_layer": True, "layer_norm_targets": True, "instance_norm_targets": True},
    **{"min_target_var": 0.2, "min_pred_var": 0.03},
}
"""Every setting differs from the golden case, from its default, and from every other setting."""


def test_every_translated_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    assert {*TRANSLATED, "activation_fn", "extractor_mode"} == {*CHANGED, "ema_transformer_only", "instance_norm_target_layer"}
    recipe, base = recipe_of(settings, **CHANGED), speech_base()
    assert recipe.model == EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=6,
        hidden_dropout=0.15,
        attention_dropout=0.2,
        activation_dropout=0.3,
        activation="relu",
        block=BlockConfig(normalize_before=True, layerdrop=0.05),
        head_layers=1,
        head_init="torch",
    )
    sizes: dict[str, Any] = {"conv_dim": 16, "conv_kernels": (8, 3, 3), "conv_strides": (4, 2, 2), "conv_bias": True}
    positions: dict[str, Any] = {"pos_conv_depth": 3, "pos_conv_kernel": 11, "pos_conv_groups": 8}
    assert recipe.frontend == SpeechFrontendConfig(**sizes, **positions, extractor_norm="group")
    assert (recipe.mask, recipe.loss) == (SpanMaskConfig(prob=0.5, length=7), LossConfig(beta=1.0, scale=0.5))
    assert recipe.teacher == TeacherConfig(
        ema_decay=0.8,
        ema_end_decay=0.88,
        ema_anneal_end_step=77,
        average_top_k_layers=2,
        layer_norms=("batch", "instance", "layer"),
        average_norms=("layer", "instance"),
        shares="features",
    )
    assert recipe.guard == replace(base.guard, min_target_std=0.2, min_pred_std=0.03)


@pytest.mark.parametrize(("depth", "conv_pos", "kernel"), [(5, 95, 19), (4, 8, 3), (1, 128, 128), (2, 9, 4)])
def test_kernel_of_the_positional_convolutions(settings: dict[str, Any], depth: int, conv_pos: int, kernel: int) -> None:
    frontend: Any = recipe_of(settings, pos_conv_depth=depth, conv_pos=conv_pos).frontend
    assert (frontend.pos_conv_depth, frontend.pos_conv_kernel) == (depth, kernel)


@pytest.mark.parametrize(
    ("transformer_only", "layers_only", "shares", "num_averaged", "prefix"),
    [
        (True, True, "frontend", 3, "encoder."),
        (False, True, "frontend", 3, "encoder."),
        (True, False, "features", 3, "encoder."),
        (False, False, "nothing", 4, ""),
    ],
)
def test_what_the_teacher_shares(
    settings: dict[str, Any], transformer_only: bool, layers_only: bool, shares: str, num_averaged: int, prefix: str
) -> None:
    """If fairseq's teacher is the whole model, it returns every layer and ignores K."""
    recipe = recipe_of(settings, ema_transformer_only=transformer_only, ema_layers_only=layers_only)
    assert (recipe.teacher.shares, recipe.teacher.average_top_k_layers) == (shares, num_averaged)
    assert teacher_prefix(recipe) == prefix


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("extractor_mode", "batch_norm"),
        ("activation_fn", "swish"),
        ("layer_type", "conformer"),
        ("attn_type", "espnet"),
        ("pos_enc_type", "rel_pos"),
        ("conv_pos_batch_norm", True),
        ("dropout_input", 0.1),
        ("feature_grad_mult", 0.1),
        ("quantize_targets", True),
        ("quantize_input", True),
        ("target_glu", True),
        ("adp_num", 2),
        ("mask_selection", "poisson"),
        ("no_mask_overlap", True),
        ("mask_dropout", 0.1),
        ("mask_channel_prob", 0.1),
        ("group_norm_target_layer", True),
        ("conv_feature_layers", "[(32, 10, 5), (64, 3, 2)]"),
        ("a_new_setting", 7),
    ],
)
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} "):
        recipe_of(settings, **{key: value})


def test_instance_norm_of_the_average_needs_a_layer_norm_that_transposes_fairseqs_tensors(settings: dict[str, Any]) -> None:
    turned = recipe_of(settings, instance_norm_targets=True)
    assert turned.teacher.average_norms == ("instance",)
    with pytest.raises(ConfigError, match="instance_norm_targets is True without"):
        recipe_of(settings, instance_norm_targets=True, instance_norm_target_layer=False, layer_norm_target_layer=True)


def test_the_published_convolutions() -> None:
    layers = parse_conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]")
    assert layers == [(512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2), (512, 2, 2)]
    assert parse_conv_layers(" 2 * [(8, 3, 2)]") == [(8, 3, 2)] * 2


@pytest.mark.parametrize(
    "expression",
    ["", "[]", "[(1, 2)]", "[(1, 2, 0)]", "[(1, 2, 3.5)]", "[1]", "7", "__import__('os')", "[(1, 2, 3)] - [1]", "[(1,", "[()] + 1"],
)
def test_any_other_expression_is_refused_and_not_executed(expression: str) -> None:
    with pytest.raises(ConfigError, match="conv_feature_layers is"):
        parse_conv_layers(expression)
