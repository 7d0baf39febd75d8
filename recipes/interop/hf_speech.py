"""Hugging Face Data2VecAudio: conversion of its parameter names and its configuration to this project's. No files."""

from dataclasses import replace
from typing import Any

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.names import NameTable, head_by_head, renamed, same
from recipes.interop.settings import require

PREFIX = "data2vec_audio."
"""Prefix of the names in a model with a task's head."""
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-audio",),
    "hidden_act": ("gelu", "relu"),
    "feat_extract_activation": ("gelu",),
    "feat_extract_norm": ("layer",),
    "feat_proj_dropout": (0,),
    "add_adapter": (False,),
}
PARTS = {
    "attention.out_proj": "attention.proj",
    "layer_norm": "attention_norm",
    "feed_forward.intermediate_dense": "ffn.fc1",
    "feed_forward.output_dense": "ffn.fc2",
    "final_layer_norm": "ffn_norm",
}


def speech_names(recipe: Recipe) -> NameTable:
    """Return the name table of a trunk."""
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
    """Return the recipe whose trunk this Data2VecAudio configuration describes.

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
            block=BlockConfig(layernorm_epsilon=config["layer_norm_eps"], layerdrop=config["layerdrop"]),
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
