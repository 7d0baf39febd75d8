"""Hugging Face Data2VecVision: conversion of its parameter names and its configuration to this project's. No files."""

from dataclasses import replace
from typing import Any, Literal

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.names import Entry, NameTable, head_by_head, query_value_bias, renamed, same, transposed, unread, vector
from recipes.interop.settings import require

PREFIX = "data2vec_vision."
"""Prefix of the names in a model with a task's head."""
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-vision",),
    "hidden_act": ("gelu", "relu"),
    "use_absolute_position_embeddings": (False,),
}
TABLE = "relative_position_bias.relative_position_bias_table"
INDEX = "relative_position_bias.relative_position_index"
PARTS = {
    "layernorm_before": "attention_norm",
    "attention.output.dense": "attention.proj",
    "layernorm_after": "ffn_norm",
    "intermediate.dense": "ffn.fc1",
    "output.dense": "ffn.fc2",
}


def vision_names(recipe: Recipe) -> NameTable:
    """Return the name table of a trunk. `layernorm` and `pooler.layernorm` are both our final norm: a model has one of them."""
    front, layer, final = "trunk.frontend.", "encoder.layer.{n}.attention.attention.", "trunk.encoder.final_norm.{leaf}"
    return NameTable(
        [
            vector("embeddings.cls_token", front + "cls_vector"),
            vector("embeddings.mask_token", front + "mask_vector"),
            same("embeddings.patch_embeddings.projection.{leaf}", front + "patches.{leaf}"),
            transposed("encoder." + TABLE, front + "relative_bias.weight"),
            transposed(layer + TABLE, front + "relative_bias.{n}.weight"),
            *_block_entries(recipe.model.num_attention_heads),
            same("layernorm.{leaf}", final),
            same("pooler.layernorm.{leaf}", final),
            *unread("encoder." + INDEX, layer + INDEX),
        ]
    )


def _block_entries(num_heads: int) -> list[Entry]:
    theirs, ours = "encoder.layer.{n}.", "trunk.encoder.layers.{n}."
    attention = theirs + "attention.attention."
    weights = tuple(f"{attention}{name}.weight" for name in ("query", "key", "value"))
    bias = ours + "attention.query_value_bias.weight"
    return [
        head_by_head(weights, ours + "attention.qkv.weight", num_heads),
        query_value_bias(attention + "query.bias", attention + "value.bias", bias, num_heads),
        same(theirs + "lambda_1", ours + "attention_scale.weight"),
        same(theirs + "lambda_2", ours + "ffn_scale.weight"),
        *renamed(theirs, ours, PARTS),
    ]


def vision_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe whose trunk this Data2VecVision configuration describes.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require(config, CAN_EXPRESS)
    scale = config["layer_scale_init_value"]
    return replace(
        template,
        model=EncoderConfig(
            num_layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            ffn_hidden_size=config["intermediate_size"],
            num_attention_heads=config["num_attention_heads"],
            hidden_dropout=config["hidden_dropout_prob"],
            attention_dropout=config["attention_probs_dropout_prob"],
            activation=config["hidden_act"],
            block=BlockConfig(
                normalize_before=True,
                layernorm_epsilon=config["layer_norm_eps"],
                key_bias=False,
                layer_scale=scale if scale > 0 else None,
                drop_path=config["drop_path_rate"],
            ),
            init_std=config["initializer_range"],
            head_layers=template.model.head_layers,
        ),
        frontend=VisionFrontendConfig(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            num_channels=config["num_channels"],
            relative_bias=_relative_bias(config),
        ),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )


def _relative_bias(config: dict[str, Any]) -> Literal["shared", "per_layer", "none"]:
    shared, per_layer = config["use_shared_relative_position_bias"], config["use_relative_position_bias"]
    if shared and per_layer:
        raise ConfigError(
            "use_shared_relative_position_bias and use_relative_position_bias are both True, which this model cannot express; "
            "one of them must be False"
        )
    return "shared" if shared else "per_layer" if per_layer else "none"
