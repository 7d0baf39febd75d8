"""Conversion of names and settings of fairseq's vision port to ours and back, on the golden student."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, BlockMaskConfig, EncoderConfig, LossConfig, TeacherConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq_vision import TRANSLATED, teacher_prefix, vision_names, vision_recipe
from recipes.vision import vision_base

CASE = "vision/recipe"
NOT_OURS = {"final_proj.weight", "final_proj.bias", "encoder.rel_pos_bias.relative_position_index"}
"""Tensors without one of ours: made but never called, or computed."""
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


def recipe_of(settings: dict[str, Any], **changes: Any) -> Recipe:
    return vision_recipe(vision_base(), {**settings, **changes})


def test_from_fairseq_and_back_is_the_identity(settings: dict[str, Any], state: Callable[[str], State]) -> None:
    student, table = state(f"{CASE}/student_init"), vision_names(recipe_of(settings))
    back = table.to_theirs(table.to_ours(student), student)
    assert back.keys() == student.keys() - NOT_OURS and len(back) == 67
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, student[name], atol=0, rtol=0, msg=name)


def test_teacher_names_without_prefix_mean_the_encoders_tensors(settings: dict[str, Any], state: Callable[[str], State]) -> None:
    recipe = recipe_of(settings)
    student, names, table = state(f"{CASE}/student_init"), state(f"{CASE}/teacher_final"), vision_names(recipe)
    back = table.to_theirs(table.to_ours(student), names, teacher_prefix(recipe))
    assert back.keys() == names.keys() - {"rel_pos_bias.relative_position_index"}
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, student["encoder." + name], atol=0, rtol=0, msg=name)


def test_shapes_of_ours(settings: dict[str, Any], state: Callable[[str], State]) -> None:
    ours = vision_names(recipe_of(settings)).to_ours(state(f"{CASE}/student_init"))
    layer = "trunk.encoder.layers.2."
    expected = {
        "trunk.frontend.cls_vector": (64,),
        "trunk.frontend.mask_vector": (64,),
        "trunk.frontend.relative_bias.weight": (4, 228),
        f"{layer}attention.qkv.weight": (192, 64),
        f"{layer}attention.query_value_bias.weight": (4, 2, 16),
        f"{layer}attention_scale.weight": (64,),
        f"{layer}ffn.fc1.weight": (256, 64),
    }
    assert {name: tuple(ours[name].shape) for name in expected} == expected


def test_one_bias_table_per_block(settings: dict[str, Any]) -> None:
    recipe = recipe_of(settings, shared_rel_pos_bias=False)
    name = vision_names(recipe).our_name("encoder.blocks.3.attn.relative_position_bias_table")
    assert name == "trunk.frontend.relative_bias.3.weight"
    frontend: Any = recipe.frontend
    assert frontend.relative_bias == "per_layer"


def test_recipe_of_the_golden_settings(settings: dict[str, Any]) -> None:
    recipe, base = recipe_of(settings), vision_base()
    block = BlockConfig(normalize_before=True, key_bias=False, layer_scale=0.1, truncated_init=True, depth_scaled_init=True)
    assert recipe.model == EncoderConfig(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=256,
        num_attention_heads=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        block=block,
        head_layers=0,
    )
    assert recipe.frontend == VisionFrontendConfig(image_size=64, patch_size=8)
    assert recipe.mask == BlockMaskConfig(num_patches=38, min_block=4, max_block=38)
    assert recipe.loss == LossConfig(beta=2.0, scale=None)
    assert recipe.teacher == TeacherConfig(
        ema_decay=0.9,
        ema_end_decay=0.99,
        ema_anneal_end_step=10,
        average_top_k_layers=3,
        target="block",
        layer_norms=(),
        average_norms=("layer",),
        shares="features",
    )
    assert (recipe.data, recipe.optim, recipe.run) == (base.data, base.optim, base.run)


CHANGED = {
    **{"depth": 3, "embed_dim": 48, "num_heads": 6, "attention_dropout": 0.2, "drop_path": 0.3, "layer_scale_init_value": 0.7},
    **{"image_size": 60, "patch_size": 12, "in_channels": 4, "shared_rel_pos_bias": False},
    **{"num_mask_patches": 11, "min_mask_patches_per_block": 2, "max_mask_patches_per_block": 9, "loss_beta": 1.5, "loss_scale": 0.5},
    **{"average_top_k_layers": 2, "ema_decay": 0.8, "ema_end_decay": 0.88, "ema_anneal_end_step": 77, "ema_transformer_only": False},
    **{"end_of_block_targets": False, "layer_norm_target_layer": True, "batch_norm_target_layer": True},
    **{"instance_norm_target_layer": True, "instance_norm_targets": True, "layer_norm_targets": False},
}
"""Every setting differs from the golden case, from its default, and from every other setting."""


def test_every_translated_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    assert set(TRANSLATED) == CHANGED.keys()
    template = replace(vision_base(), model=replace(vision_base().model, init_std=None))
    block = BlockConfig(normalize_before=True, key_bias=False, layer_scale=0.7, drop_path=0.3, truncated_init=True, depth_scaled_init=True)
    model = EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=4 * 48,
        num_attention_heads=6,
        hidden_dropout=0.0,
        attention_dropout=0.2,
        block=block,
        init_std=None,
        head_layers=0,
    )
    teacher = TeacherConfig(
        ema_decay=0.8,
        ema_end_decay=0.88,
        ema_anneal_end_step=77,
        average_top_k_layers=2,
        target="ffn",
        layer_norms=("batch", "instance", "layer"),
        average_norms=("instance",),
        shares="nothing",
    )
    assert vision_recipe(template, {**settings, **CHANGED}) == replace(
        template,
        model=model,
        frontend=VisionFrontendConfig(image_size=60, patch_size=12, num_channels=4, relative_bias="per_layer"),
        mask=BlockMaskConfig(num_patches=11, min_block=2, max_block=9),
        teacher=teacher,
        loss=LossConfig(beta=1.5, scale=0.5),
    )


def test_other_settings_are_translated(settings: dict[str, Any]) -> None:
    recipe = recipe_of(
        settings,
        layer_scale_init_value=0,
        drop_path=0.2,
        end_of_block_targets=False,
        ema_transformer_only=False,
        instance_norm_target_layer=True,
    )
    assert (recipe.model.block.layer_scale, recipe.model.block.drop_path) == (None, 0.2)
    assert (recipe.teacher.target, recipe.teacher.shares, recipe.teacher.layer_norms) == ("ffn", "nothing", ("instance",))
    assert teacher_prefix(recipe) == ""


@pytest.mark.parametrize(("theirs", "ours"), [(None, None), (0, 1.0), (-1, 1.0), (0.5, 0.5)])
def test_a_loss_scale_that_is_not_positive_means_no_scale(settings: dict[str, Any], theirs: Any, ours: Any) -> None:
    assert recipe_of(settings, loss_scale=theirs).loss.scale == ours


@pytest.mark.parametrize(("key", "value"), [("image_size", 65), ("a_new_setting", 7)])
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} "):
        recipe_of(settings, **{key: value})
