"""Hugging Face Data2VecText: conversion of its parameter names and its configuration to this project's. No files."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.interop.names import NameTable, head_by_head, padded_rows, renamed, same, unread
from recipes.interop.settings import require

PREFIX = "data2vec_text."
"""Prefix of the names in a model with a task's head."""
TOKENS, TOKEN_TYPES = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-text",),
    "hidden_act": ("gelu", "relu"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "pad_token_id": (1,),
}
PARTS = {
    "attention.output.dense": "attention.proj",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "ffn.fc1",
    "output.dense": "ffn.fc2",
    "output.LayerNorm": "ffn_norm",
}


def text_names(recipe: Recipe) -> NameTable:
    """Return the name table of a trunk. Pooler and token types are not part of data2vec."""
    frontend = recipe.frontend
    assert isinstance(frontend, TextFrontendConfig)
    theirs, ours = "encoder.layer.{n}.", "trunk.encoder.layers.{n}."
    queries_keys_values = tuple(f"{theirs}attention.self.{name}.{{leaf}}" for name in ("query", "key", "value"))
    return NameTable(
        [
            padded_rows(TOKENS, "trunk.frontend.tokens.weight", frontend.vocab_size, frontend.padded_vocab_size),
            same("embeddings.position_embeddings.weight", "trunk.frontend.positions.weight"),
            same("embeddings.LayerNorm.{leaf}", "trunk.frontend.norm.{leaf}"),
            head_by_head(queries_keys_values, ours + "attention.qkv.{leaf}", recipe.model.num_attention_heads),
            *renamed(theirs, ours, PARTS),
            *unread(TOKEN_TYPES, "pooler.dense.{leaf}", "embeddings.position_ids", "embeddings.token_type_ids"),
        ]
    )


def fold_token_types(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same model without token types: the only row of their table (zero in data2vec) is added to every row of the token
    table."""
    if TOKEN_TYPES not in state:
        return state
    folded = {name: tensor for name, tensor in state.items() if name != TOKEN_TYPES}
    return {**folded, TOKENS: state[TOKENS] + state[TOKEN_TYPES][0]}


def text_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe whose trunk this Data2VecText configuration describes.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require(config, CAN_EXPRESS)
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
            block=BlockConfig(layernorm_epsilon=config["layer_norm_eps"]),
        ),
        frontend=TextFrontendConfig(vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"] - 2),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )
