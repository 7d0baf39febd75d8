"""Hugging Face Data2VecText: conversion of its parameter names and its configuration to this project's. No files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.interop.expressible import POST_LN, expressible, only
from recipes.interop.names import NameTable, head_by_head, padded_rows, renamed, same, unread
from recipes.interop.settings import encoder_fields, require
from recipes.interop.shapes import Shapes, affine, weights_first

PREFIX = "data2vec_text."
"""Prefix of all names of data2vec's parameters in a model with a task's head."""
TOKENS, TOKEN_TYPES = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "model_type": ("data2vec-text",),
    "hidden_act": ("gelu", "relu"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "pad_token_id": (1,),
}
EXPRESSIBLE = expressible(
    stored=("model.block.layernorm_epsilon", "frontend.vocab_size", "frontend.max_positions"),
    dropped=("model.activation_dropout", "model.block.drop_path", "model.block.layerdrop", "frontend.embedding_init_std"),
    rules=POST_LN | {"frontend.positions": only("frontend.positions", "absolute", "transformers has absolute positions only")},
)
OWN_CONFIG = {
    "architectures": ["Data2VecTextModel"],
    "model_type": "data2vec-text",
    "type_vocab_size": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": False,
}
"""Fields of an export's config.json that the recipe does not decide."""
POOLER_SEED, POOLER_STD = 0, 0.02
PARTS = {
    "attention.output.dense": "attention.proj",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "ffn.fc1",
    "output.dense": "ffn.fc2",
    "output.LayerNorm": "ffn_norm",
}


def text_names(recipe: Recipe) -> NameTable:
    """Return the table that converts Data2VecText's tensors to those of this project's trunk (front-end and encoder) and back. Pooler
    and token types are left out: they are not part of data2vec."""
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


def has_token_type(state: Mapping[str, Tensor]) -> bool:
    """True if there is a table of token types and its first row is not zero. Adding zeros would turn -0.0 into 0.0."""
    return TOKEN_TYPES in state and bool(state[TOKEN_TYPES][:1].any())


def fold_token_types(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the same model without token types: the first row of their table (the only one, and zero in data2vec) is
    added to every row of the token table. Without such a table, or if its rows have another length, return the tokens unchanged."""
    folded = {name: tensor for name, tensor in state.items() if name != TOKEN_TYPES}
    if not has_token_type(state) or state[TOKENS].shape[-1] != state[TOKEN_TYPES].shape[-1]:
        return folded
    return {**folded, TOKENS: state[TOKENS] + state[TOKEN_TYPES][0]}


def text_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe whose front-end and encoder this Data2VecText configuration describes. Its teacher averages all layers; all else
    is the template's.

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
            init_std=config.get("initializer_range", 0.02),
        ),
        frontend=TextFrontendConfig(vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"] - 2),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )


def fit_text(recipe: Any, template: Any) -> Recipe:
    """Return the recipe with texts and masks no longer than its positions. It had those of `template`."""
    length = min(recipe.data.sequence_length, recipe.frontend.max_positions)
    data = replace(recipe.data, sequence_length=length)
    return replace(recipe, data=data, mask=replace(recipe.mask, length=min(recipe.mask.length, length)))


def text_config(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a Data2VecText configuration that this recipe decides: the inverse of text_recipe.

    Raises: ConfigError with the first setting that transformers cannot express.
    """
    EXPRESSIBLE.check(recipe)
    model, frontend = recipe.model, recipe.frontend
    assert isinstance(frontend, TextFrontendConfig)
    return {
        **encoder_fields(model),
        "vocab_size": frontend.vocab_size,
        "max_position_embeddings": frontend.max_positions + 2,
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
    }


def text_shapes(config: dict[str, Any]) -> Shapes:
    """Return name -> shape of all tensors that transformers' Data2VecTextModel with this configuration has."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    shapes = {
        TOKENS: (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        TOKEN_TYPES: (config.get("type_vocab_size", 2), hidden),
        **affine("embeddings.LayerNorm", hidden),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}."
        attention: Shapes = {}
        for name in ("query", "key", "value"):
            attention |= affine(f"{layer}attention.self.{name}", hidden, hidden)
        shapes |= weights_first(attention)
        shapes |= affine(f"{layer}attention.output.dense", hidden, hidden) | affine(f"{layer}attention.output.LayerNorm", hidden)
        shapes |= affine(f"{layer}intermediate.dense", ffn, hidden) | affine(f"{layer}output.dense", hidden, ffn)
        shapes |= affine(f"{layer}output.LayerNorm", hidden)
    return shapes | affine("pooler.dense", hidden, hidden)


def text_untrained(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the values of a tensor that transformers' class has and data2vec has not: token types are 0, the pooler has random weights
    (always the same) and biases 0."""
    if name != "pooler.dense.weight":
        return torch.zeros(shape)
    return torch.empty(shape).normal_(0, POOLER_STD, generator=torch.Generator().manual_seed(POOLER_SEED))


def unfold_token_types(tokens: Tensor, source: Tensor, token_type: Tensor) -> None:
    """Undo fold_token_types in place: write to `tokens`, rows of this model's token table, the rows of a table to which `token_type`
    would be added. A row that is still as it was imported becomes exactly the row of `source`, the imported table.
    Shapes: tokens and source (rows, channels), token_type (channels)."""
    tokens.copy_(torch.where(source + token_type == tokens, source, tokens - token_type))
