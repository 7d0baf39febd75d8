"""Hugging Face Data2VecVision: conversion of its parameter names and its configuration to this project's. No files."""

from dataclasses import replace
from typing import Any, Literal

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.expressible import Rule, expressible, only
from recipes.interop.names import Entry, NameTable, head_by_head, query_value_bias, renamed, same, transposed, unread, vector
from recipes.interop.settings import encoder_fields, require
from recipes.interop.shapes import Shapes, affine

PREFIX = "data2vec_vision."
"""Prefix of all names of data2vec's parameters in a model with a task's head."""
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-vision",),
    "hidden_act": ("gelu", "relu"),
    "use_absolute_position_embeddings": (False,),
}
EXPRESSIBLE = expressible(
    stored=(
        *("model.block.layernorm_epsilon", "model.block.drop_path"),
        *("frontend.image_size", "frontend.patch_size", "frontend.num_channels", "frontend.relative_bias"),
    ),
    dropped=("model.activation_dropout", "model.block.layerdrop"),
    rules={
        "model.block.normalize_before": only(
            "model.block.normalize_before", True, "Data2VecVision of transformers has LayerNorm before attention and FFN only"
        ),
        "model.block.key_bias": only("model.block.key_bias", False, "Data2VecVision of transformers has no bias on the keys"),
        "model.block.layer_scale": Rule(
            lambda scale: scale != 0, "transformers takes 0 for no layer scale", "train with --set model.block.layer_scale=1e-4"
        ),
    },
)
OWN_CONFIG = {
    "architectures": ["Data2VecVisionModel"],
    "model_type": "data2vec-vision",
    "use_mask_token": True,
    "use_mean_pooling": True,
    "use_absolute_position_embeddings": False,
}
"""Fields of an export's config.json that the recipe does not decide. use_mean_pooling is True in the published models; the class then has
no LayerNorm after the last block."""
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
    """Return the table that converts Data2VecVision's tensors to those of this project's trunk (front-end and encoder) and back.
    `layernorm` and `pooler.layernorm` both become the encoder's final norm: a model has one of them."""
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
    """Return the recipe whose front-end and encoder this Data2VecVision configuration describes. Its teacher averages all layers; all
    else is the template's.

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
            image_size=_side(config["image_size"]),
            patch_size=_side(config["patch_size"]),
            num_channels=config["num_channels"],
            relative_bias=_relative_bias(config),
        ),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )


def _side(size: Any) -> Any:
    """Return the side of a square, which the configuration may have as a number or as height and width."""
    return size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else size


def _relative_bias(config: dict[str, Any]) -> Literal["shared", "per_layer", "none"]:
    shared, per_layer = config["use_shared_relative_position_bias"], config["use_relative_position_bias"]
    if shared and per_layer:
        raise ConfigError(
            "use_shared_relative_position_bias and use_relative_position_bias are both True, which this model cannot express; "
            "one of them must be False"
        )
    return "shared" if shared else "per_layer" if per_layer else "none"


def fit_vision(recipe: Any, template: Any) -> Recipe:
    """Return the recipe with masks that fit its grid of patches: in proportion to those of `template`, if its own do not fit."""
    mask, grid = recipe.mask, recipe.frontend.grid
    if mask.num_patches < grid**2 and mask.min_block <= min(mask.num_patches, mask.max_block, (grid - 1) ** 2):
        return recipe
    num_patches = max(1, mask.num_patches * grid**2 // template.frontend.grid**2)
    max_block = min(mask.max_block, num_patches)
    min_block = max(1, min(mask.min_block * grid**2 // template.frontend.grid**2, max_block, (grid - 1) ** 2))
    return replace(recipe, mask=replace(mask, num_patches=num_patches, min_block=min_block, max_block=max_block))


def vision_config(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a Data2VecVision configuration that this recipe decides: the inverse of vision_recipe.

    Raises: ConfigError with the first setting that transformers cannot express.
    """
    EXPRESSIBLE.check(recipe)
    model, frontend = recipe.model, recipe.frontend
    assert isinstance(frontend, VisionFrontendConfig)
    return {
        **encoder_fields(model),
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "drop_path_rate": model.block.drop_path,
        "layer_scale_init_value": model.block.layer_scale or 0.0,
        "image_size": frontend.image_size,
        "patch_size": frontend.patch_size,
        "num_channels": frontend.num_channels,
        "use_shared_relative_position_bias": frontend.relative_bias == "shared",
        "use_relative_position_bias": frontend.relative_bias == "per_layer",
    }


def averages_outputs(config: dict[str, Any]) -> bool:
    """True if the pooled output is an average. Then transformers' class has no LayerNorm after the last block. True is its default."""
    return bool(config.get("use_mean_pooling", True))


def vision_may_lack(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the beginnings of names of this project that a directory with this configuration may lack."""
    return ("trunk.encoder.final_norm.",) if averages_outputs(config) else ()


def vision_shapes(config: dict[str, Any]) -> Shapes:
    """Return name -> shape of all tensors that transformers' Data2VecVisionModel with this configuration has."""
    hidden, patch, grid = config["hidden_size"], config["patch_size"], _side(config["image_size"]) // _side(config["patch_size"])
    table = {TABLE: ((2 * grid - 1) ** 2 + 3, config["num_attention_heads"])}
    shapes: Shapes = {"embeddings.cls_token": (1, 1, hidden)}
    shapes |= {"embeddings.mask_token": (1, 1, hidden)} if config.get("use_mask_token", False) else {}
    shapes |= affine("embeddings.patch_embeddings.projection", hidden, config["num_channels"], patch, patch)
    shapes |= {f"encoder.{name}": shape for name, shape in table.items() if config["use_shared_relative_position_bias"]}
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        attention = f"{layer}attention.attention."
        shapes |= {f"{attention}{name}.weight": (hidden, hidden) for name in ("query", "key", "value")}
        shapes |= {f"{attention}{name}.bias": (hidden,) for name in ("query", "value")}
        shapes |= {f"{attention}{name}": shape for name, shape in table.items() if config["use_relative_position_bias"]}
        shapes |= _layer_shapes(layer, config)
    return shapes if averages_outputs(config) else shapes | affine("layernorm", hidden)


def _layer_shapes(layer: str, config: dict[str, Any]) -> Shapes:
    """Return the tensors of a block, without those of its queries, keys and values. `layer`: beginning of their names."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    scaled = config["layer_scale_init_value"] > 0
    return (
        {f"{layer}lambda_{number}": (hidden,) for number in (1, 2) if scaled}
        | affine(f"{layer}layernorm_before", hidden)
        | affine(f"{layer}attention.output.dense", hidden, hidden)
        | affine(f"{layer}layernorm_after", hidden)
        | affine(f"{layer}intermediate.dense", ffn, hidden)
        | affine(f"{layer}output.dense", hidden, ffn)
    )
