"""Hugging Face Data2VecText: its parameter names as fairseq's, and its configuration as our recipe. No ranks, no files."""

import re
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import EncoderConfig, TextFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq import SENTENCE_ENCODER

EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "embed_tokens.weight",
    "embeddings.position_embeddings.weight": "embed_positions.weight",
    "embeddings.LayerNorm.weight": "layernorm_embedding.weight",
    "embeddings.LayerNorm.bias": "layernorm_embedding.bias",
}
LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}


def fairseq_from_hf_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under fairseq's student names. Pooler and the (zero) token-type row are not data2vec's: left out,
    the row folded into the token table should it not be zero."""
    state = {name.removeprefix("data2vec_text."): tensor for name, tensor in state.items()}
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in EMBEDDINGS:
            theirs[SENTENCE_ENCODER + EMBEDDINGS[name]] = tensor
        elif match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
            theirs[f"{SENTENCE_ENCODER}layers.{match[1]}.{LAYER[match[2]]}.{match[3]}"] = tensor
    types = state.get("embeddings.token_type_embeddings.weight")
    if types is not None:
        key = SENTENCE_ENCODER + "embed_tokens.weight"
        theirs[key] = theirs[key] + types[0]
    return theirs


def text_recipe_from_hf(template: Recipe, config: dict[str, Any]) -> Recipe:
    """The recipe whose trunk is this Data2VecText configuration.

    Raises: ConfigError naming the first setting that ours cannot express.
    """
    if config.get("model_type") != "data2vec-text" or config.get("hidden_act") not in ("gelu", "relu"):
        kind, activation = config.get("model_type"), config.get("hidden_act")
        raise ConfigError(f"model_type {kind!r} with hidden_act {activation!r}: only data2vec-text with gelu or relu is known")
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
            layernorm_epsilon=config["layer_norm_eps"],
        ),
        frontend=TextFrontendConfig(vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"] - 2),
        teacher=replace(template.teacher, average_top_k_layers=config["num_hidden_layers"]),
    )
