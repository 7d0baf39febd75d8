"""Hugging Face Data2VecAudio: conversion of its parameter names and its configuration to this project's. No files."""

from dataclasses import replace
from typing import Any

from model.config import BlockConfig, EncoderConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.expressible import POST_LN, Rule, expressible, only
from recipes.interop.names import NameTable, head_by_head, renamed, same
from recipes.interop.settings import encoder_fields, require
from recipes.interop.shapes import Shapes, affine, weights_first

PREFIX = "data2vec_audio."
"""Prefix of all names of data2vec's parameters in a model with a task's head."""
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-audio",),
    "hidden_act": ("gelu", "relu"),
    "feat_extract_activation": ("gelu",),
    "feat_extract_norm": ("layer",),
    "feat_proj_dropout": (0,),
    "add_adapter": (False,),
    "layer_norm_eps": (1e-5,),  # transformers takes it for the norm of the features too, where this model has 1e-5
}
EXPRESSIBLE = expressible(
    stored=(
        *("model.activation_dropout", "model.block.layerdrop", "frontend.conv_dim", "frontend.conv_kernels", "frontend.conv_strides"),
        *("frontend.conv_bias", "frontend.pos_conv_kernel", "frontend.pos_conv_groups"),
    ),
    dropped=("model.block.drop_path", "frontend.exact_statistics", "frontend.exact_padding"),
    rules=POST_LN
    | {
        "model.block.layernorm_epsilon": only(
            "model.block.layernorm_epsilon",
            1e-5,
            "transformers has one epsilon for the blocks and for the features, where this model has 1e-05",
        ),
        "frontend.extractor_norm": only(
            "frontend.extractor_norm", "layer", "transformers has a LayerNorm after every convolution of the extractor only"
        ),
        "frontend.pos_conv_depth": Rule(
            lambda depth: depth > 1,
            "transformers has no single, weight-normed positional convolution",
            "train with --set frontend.pos_conv_depth=5",
        ),
    },
)
OWN_CONFIG = {"architectures": ["Data2VecAudioModel"], "model_type": "data2vec-audio", "mask_time_prob": 0.05, "feat_proj_dropout": 0.0}
"""Fields of an export's config.json that the recipe does not decide. mask_time_prob is transformers' default; with 0 its class would have
no mask vector."""
PARTS = {
    "attention.out_proj": "attention.proj",
    "layer_norm": "attention_norm",
    "feed_forward.intermediate_dense": "ffn.fc1",
    "feed_forward.output_dense": "ffn.fc2",
    "final_layer_norm": "ffn_norm",
}


def speech_names(recipe: Recipe) -> NameTable:
    """Return the table that converts Data2VecAudio's tensors to those of this project's trunk (front-end and encoder) and back."""
    theirs, ours, front = "encoder.layers.{n}.", "trunk.encoder.layers.{n}.", "trunk.frontend."
    queries_keys_values = tuple(f"{theirs}attention.{letter}_proj.{{leaf}}" for letter in "qkv")
    return NameTable(
        [
            same("feature_extractor.conv_layers.{n}.conv.{leaf}", front + "extractor.layers.{n}.conv.{leaf}"),
            same("feature_extractor.conv_layers.{n}.layer_norm.{leaf}", front + "extractor.layers.{n}.norm.{leaf}"),
            same("feature_projection.layer_norm.{leaf}", front + "feature_norm.{leaf}"),
            same("feature_projection.projection.{leaf}", front + "projection.{leaf}"),
            same("masked_spec_embed", front + "mask_vector"),
            same("encoder.pos_conv_embed.layers.{n}.conv.{leaf}", front + "positions.layers.{n}.{leaf}"),
            same("encoder.layer_norm.{leaf}", front + "norm.{leaf}"),
            head_by_head(queries_keys_values, ours + "attention.qkv.{leaf}", recipe.model.num_attention_heads),
            *renamed(theirs, ours, PARTS),
        ]
    )


def speech_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe whose front-end and encoder this Data2VecAudio configuration describes. Its teacher averages all layers; all
    else is the template's.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require(config, CAN_EXPRESS)
    if len(set(config["conv_dim"])) > 1:
        raise ConfigError(f"conv_dim is {config['conv_dim']}, which this model cannot express; give all layers the same")
    if config["num_conv_pos_embeddings"] < 2:
        raise ConfigError(
            "num_conv_pos_embeddings is 1, which this model cannot express: its single positional convolution is weight-normed"
        )
    return replace(
        template,
        model=EncoderConfig(
            num_layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            ffn_hidden_size=config["intermediate_size"],
            num_attention_heads=config["num_attention_heads"],
            hidden_dropout=config["hidden_dropout"],
            attention_dropout=config["attention_dropout"],
            activation_dropout=config["activation_dropout"],
            activation=config["hidden_act"],
            block=BlockConfig(layerdrop=config["layerdrop"]),
            init_std=config.get("initializer_range", 0.02),
            head_layers=template.model.head_layers,
            head_init=template.model.head_init,
        ),
        frontend=SpeechFrontendConfig(
            conv_dim=config["conv_dim"][0],
            conv_kernels=tuple(config["conv_kernel"]),
            conv_strides=tuple(config["conv_stride"]),
            conv_bias=config["conv_bias"],
            pos_conv_depth=config["num_conv_pos_embeddings"],
            pos_conv_kernel=config["conv_pos_kernel_size"],
            pos_conv_groups=config["num_conv_pos_embedding_groups"],
        ),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )


def speech_config(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a Data2VecAudio configuration that this recipe decides: the inverse of speech_recipe.

    Raises: ConfigError with the first setting that transformers cannot express.
    """
    EXPRESSIBLE.check(recipe)
    model, frontend = recipe.model, recipe.frontend
    assert isinstance(frontend, SpeechFrontendConfig)
    return {
        **encoder_fields(model),
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.activation_dropout,
        "layerdrop": model.block.layerdrop,
        "conv_dim": [frontend.conv_dim] * len(frontend.conv_kernels),
        "conv_kernel": list(frontend.conv_kernels),
        "conv_stride": list(frontend.conv_strides),
        "conv_bias": frontend.conv_bias,
        "num_conv_pos_embeddings": frontend.pos_conv_depth,
        "conv_pos_kernel_size": frontend.pos_conv_kernel,
        "num_conv_pos_embedding_groups": frontend.pos_conv_groups,
    }


def speech_shapes(config: dict[str, Any]) -> Shapes:
    """Return name -> shape of all tensors that transformers' Data2VecAudioModel with this configuration has."""
    hidden, ffn, dims = config["hidden_size"], config["intermediate_size"], config["conv_dim"]
    shapes: Shapes = {}
    if config.get("mask_time_prob", 0.05) > 0 or config.get("mask_feature_prob", 0.0) > 0:
        shapes["masked_spec_embed"] = (hidden,)
    for number, (dim, kernel) in enumerate(zip(dims, config["conv_kernel"], strict=True)):
        layer = f"feature_extractor.conv_layers.{number}."
        convolution = affine(f"{layer}conv", dim, dims[number - 1] if number else 1, kernel)
        shapes |= {name: shape for name, shape in convolution.items() if config["conv_bias"] or not name.endswith(".bias")}
        shapes |= affine(f"{layer}layer_norm", dim)
    shapes |= affine("feature_projection.layer_norm", dims[-1]) | affine("feature_projection.projection", hidden, dims[-1])
    for number in range(config["num_conv_pos_embeddings"]):
        width = hidden // config["num_conv_pos_embedding_groups"]
        shapes |= affine(f"encoder.pos_conv_embed.layers.{number}.conv", hidden, width, config["conv_pos_kernel_size"])
    shapes |= affine("encoder.layer_norm", hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{number}."
        attention: Shapes = {}
        for letter in "qkv":
            attention |= affine(f"{layer}attention.{letter}_proj", hidden, hidden)
        shapes |= weights_first(attention) | affine(f"{layer}attention.out_proj", hidden, hidden) | affine(f"{layer}layer_norm", hidden)
        shapes |= affine(f"{layer}feed_forward.intermediate_dense", ffn, hidden)
        shapes |= affine(f"{layer}feed_forward.output_dense", hidden, ffn) | affine(f"{layer}final_layer_norm", hidden)
    return shapes
