"""fairseq's data2vec: its parameter names and configuration in ours, and back. Whole tensors on the host, no ranks.

Source of names: fairseq data2vec_text.py and transformer_encoder.py at the commit that data2vec.md names.
"""

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.config import EncoderConfig, LossConfig, TeacherConfig, TextFrontendConfig
from model.frontends.text import PAD
from recipes.config import Recipe
from recipes.errors import ConfigError

FRONTEND = {"embed_tokens": "tokens", "embed_positions": "positions", "layernorm_embedding": "norm"}
LAYER = {
    "out_proj": "attention.proj",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
    "final_layer_norm": "ffn_norm",
}
NOT_PARAMETERS = ("version",)
SENTENCE_ENCODER = "encoder.sentence_encoder."


def text_name(name: str) -> str:
    """Our name of a fairseq text parameter other than q, k and v: student names, or teacher names without prefix."""
    name = name.removeprefix(SENTENCE_ENCODER)
    if match := re.fullmatch(r"encoder\.regression_head\.(\d+)\.(weight|bias)", name):
        return f"head.layers.{int(match[1]) // 2}.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d+)\.(?:self_attn\.)?(\w+)\.(weight|bias)", name):
        return f"trunk.encoder.layers.{match[1]}.{LAYER[match[2]]}.{match[3]}"
    module, _, leaf = name.partition(".")
    if module == "layer_norm":
        return f"trunk.encoder.final_norm.{leaf}"
    return f"trunk.frontend.{FRONTEND[module]}.{leaf}"


def from_fairseq_text(state: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Our whole tensors from fairseq's: q, k and v fused head by head, embedding rows padded with zeros."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.removeprefix(SENTENCE_ENCODER) in NOT_PARAMETERS or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
            fused = torch.stack([p.view(num_heads, -1, *p.shape[1:]) for p in parts], dim=1).flatten(0, 2)
            ours[text_name(name.replace("self_attn.q_proj", "out_proj")).replace("attention.proj", "attention.qkv")] = fused
        else:
            ours[text_name(name)] = tensor
    table = ours["trunk.frontend.tokens.weight"]
    ours["trunk.frontend.tokens.weight"] = torch.cat(
        [table, table.new_zeros(TextFrontendConfig(len(table)).padded_vocab_size - len(table), table.shape[1])]
    )
    return ours


def to_fairseq_text(ours: dict[str, Tensor], names: list[str], num_heads: int, vocab_size: int) -> dict[str, Tensor]:
    """The tensors called `names` by fairseq, from our whole tensors: the inverse of from_fairseq_text."""
    theirs: dict[str, Tensor] = {}
    for name in names:
        if match := re.search(r"self_attn\.([qkv])_proj", name):
            fused = ours[text_name(name.replace(match[0], "out_proj")).replace("attention.proj", "attention.qkv")]
            part = fused.view(num_heads, 3, -1, *fused.shape[1:])[:, "qkv".index(match[1])]
            theirs[name] = part.flatten(0, 1)
        else:
            tensor = ours[text_name(name)]
            theirs[name] = tensor[:vocab_size] if name.endswith("embed_tokens.weight") else tensor
    return theirs


def text_recipe_from_fairseq(template: Recipe, config: dict[str, Any], vocab_size: int) -> Recipe:
    """The recipe that fairseq's data2vec_text configuration describes.

    Raises: ConfigError naming the first setting that ours cannot express.
    """
    transformer, encoder = config["transformer"], config["transformer"]["encoder"]
    _refuse_unknown(config, transformer, encoder)
    layer_norms = [n for n in ("batch", "instance", "layer") if config.get(f"{n}_norm_target_layer")]
    average_norms = [n for n in ("layer", "instance") if config.get(f"{n}_norm_targets")]
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
            normalize_before=encoder["normalize_before"],
            head_layers=config["head_layers"],
        ),
        frontend=TextFrontendConfig(vocab_size=vocab_size, max_positions=config["max_positions"]),
        teacher=TeacherConfig(
            ema_decay=config["ema_decay"],
            ema_end_decay=config["ema_end_decay"],
            ema_anneal_end_step=config["ema_anneal_end_step"],
            average_top_k_layers=config["average_top_k_layers"],
            layer_norms=tuple(layer_norms),  # type: ignore[arg-type]
            average_norms=tuple(average_norms),  # type: ignore[arg-type]
            ema_transformer_layers_only=config["ema_transformer_layers_only"],
        ),
        loss=LossConfig(beta=config["loss_beta"], scale=None if scale is None or scale <= 0 else scale),
    )


def _refuse_unknown(config: dict[str, Any], transformer: dict[str, Any], encoder: dict[str, Any]) -> None:
    must = [
        ("transformer.activation_fn", transformer["activation_fn"], ("gelu", "relu")),
        ("transformer.encoder.learned_pos", encoder["learned_pos"], (True,)),
        ("transformer.no_token_positional_embeddings", transformer["no_token_positional_embeddings"], (False,)),
        ("transformer.layernorm_embedding", transformer["layernorm_embedding"], (True,)),
        ("transformer.no_scale_embedding", transformer["no_scale_embedding"], (True,)),
        ("transformer.encoder.layerdrop", encoder.get("layerdrop", 0), (0, 0.0)),
        ("transformer.base_layers", transformer.get("base_layers", 0), (0,)),
        ("transformer.quant_noise.pq", transformer.get("quant_noise", {}).get("pq", 0.0), (0, 0.0)),
        ("group_norm_target_layer", config.get("group_norm_target_layer", False), (False,)),
    ]
    for name, value, allowed in must:
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}, which this model cannot express; it takes {' or '.join(map(repr, allowed))}")
    assert PAD == 1  # fairseq's dictionary
