"""fairseq's data2vec text: conversion of its parameter names and its configuration to this project's.

Source of names: fairseq data2vec_text.py and transformer_encoder.py at the commit that data2vec.md names.
"""

from dataclasses import replace
from typing import Any

from model.config import BlockConfig, EncoderConfig, LossConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq_blocks import block_entries
from recipes.interop.names import NameTable, padded_rows, same, unread
from recipes.interop.settings import require, teacher_settings

TEACHER_PREFIX = "encoder.sentence_encoder."
"""Prefix, in the student, of the names of the parameters that the teacher averages. The teacher's own names do not have it."""
TOKENS = TEACHER_PREFIX + "embed_tokens.weight"
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "transformer.activation_fn": ("gelu", "relu"),
    "transformer.encoder.learned_pos": (True,),
    "transformer.no_token_positional_embeddings": (False,),
    "transformer.layernorm_embedding": (True,),
    "transformer.no_scale_embedding": (True,),
    "transformer.encoder.layerdrop": (0,),
    "transformer.base_layers": (0,),
    "transformer.quant_noise.pq": (0,),
    "group_norm_target_layer": (False,),
}


def text_names(recipe: Recipe) -> NameTable:
    """Return the name table of a student. It also fits a teacher whose names get TEACHER_PREFIX."""
    frontend, model = recipe.frontend, recipe.model
    assert isinstance(frontend, TextFrontendConfig)
    head = [same(f"encoder.regression_head.{2 * i}.{{leaf}}", f"head.layers.{i}.{{leaf}}") for i in range(model.head_layers)]
    return NameTable(
        [
            padded_rows(TOKENS, "trunk.frontend.tokens.weight", frontend.vocab_size, frontend.padded_vocab_size),
            same(TEACHER_PREFIX + "embed_positions.weight", "trunk.frontend.positions.weight"),
            same(TEACHER_PREFIX + "layernorm_embedding.{leaf}", "trunk.frontend.norm.{leaf}"),
            same(TEACHER_PREFIX + "layer_norm.{leaf}", "trunk.encoder.final_norm.{leaf}"),
            *block_entries(TEACHER_PREFIX, model.num_attention_heads),
            *unread(TEACHER_PREFIX + "version"),
            *head,
        ]
    )


def text_recipe(template: Recipe, config: dict[str, Any], vocab_size: int) -> Recipe:
    """Return the recipe that fairseq's data2vec_text configuration describes. `vocab_size` is the size of its dictionary. Sections that
    do not change a state dict (mask, data, optimizer, run) are the template's.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require(config, CAN_EXPRESS)
    transformer, encoder = config["transformer"], config["transformer"]["encoder"]
    if transformer["activation_fn"] != "gelu" and config["head_layers"] > 1:
        raise ConfigError(
            f"transformer.activation_fn is {transformer['activation_fn']!r} with head_layers {config['head_layers']}: fairseq's head has "
            "gelu whatever the blocks have, ours has theirs; this model cannot express it"
        )
    scale = config.get("loss_scale")
    return replace(
        template,
        model=EncoderConfig(
            num_layers=encoder["layers"],
            hidden_size=encoder["embed_dim"],
            ffn_hidden_size=encoder["ffn_embed_dim"],
            num_attention_heads=encoder["attention_heads"],
            hidden_dropout=transformer["dropout"],
            attention_dropout=transformer["attention_dropout"],
            activation_dropout=max(transformer["activation_dropout"], transformer.get("relu_dropout", 0.0)),
            activation=transformer["activation_fn"],
            block=BlockConfig(normalize_before=encoder["normalize_before"]),
            head_layers=config["head_layers"],
        ),
        frontend=TextFrontendConfig(vocab_size=vocab_size, max_positions=config["max_positions"]),
        teacher=replace(teacher_settings(config), shares="frontend" if config["ema_transformer_layers_only"] else "nothing"),
        loss=LossConfig(beta=config["loss_beta"], scale=None if scale is None or scale <= 0 else scale),
    )
