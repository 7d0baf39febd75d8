"""fairseq's data2vec audio: conversion of its parameter names and its configuration to this project's.

Source of names: fairseq data2vec_audio.py and wav2vec2.py at the commit that data2vec.md names.
"""

import ast
from dataclasses import replace
from typing import Any, Literal

from model.config import BlockConfig, EncoderConfig, LossConfig, Shares, SpanMaskConfig, TeacherConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.fairseq_blocks import block_entries
from recipes.interop.names import Entry, NameTable, same
from recipes.interop.settings import require, require_known, teacher_settings

EXTRACTOR_NORM: dict[str, Literal["layer", "group"]] = {"layer_norm": "layer", "default": "group"}
CAN_EXPRESS: dict[str, tuple[Any, ...]] = {
    "extractor_mode": ("default", "layer_norm"),
    "activation_fn": ("gelu", "relu"),
    "layer_type": ("transformer",),
    "attn_type": ("",),
    "pos_enc_type": ("abs",),
    "conv_pos_batch_norm": (False,),
    "dropout_input": (0,),
    "feature_grad_mult": (1.0,),
    "quantize_targets": (False,),
    "quantize_input": (False,),
    "target_glu": (False,),
    "adp_num": (-1,),
    "mask_selection": ("static",),
    "no_mask_overlap": (False,),
    "mask_dropout": (0,),
    "mask_channel_prob": (0,),
    "group_norm_target_layer": (False,),
}
TRANSLATED = (
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "layer_norm_first", "encoder_layerdrop"),
    *("dropout", "attention_dropout", "activation_dropout", "conv_feature_layers", "conv_bias", "conv_pos", "conv_pos_groups"),
    *("pos_conv_depth", "mask_prob", "mask_length", "loss_beta", "loss_scale", "average_top_k_layers", "ema_decay", "ema_end_decay"),
    *("ema_anneal_end_step", "ema_transformer_only", "ema_layers_only", "layer_norm_target_layer", "instance_norm_target_layer"),
    *("batch_norm_target_layer", "layer_norm_targets", "instance_norm_targets", "min_target_var", "min_pred_var"),
)
IGNORED = {
    "_name": "the class",
    "dropout_features": "the module is made, but never called",
    "final_dim": "only for wav2vec 2.0's projections, quantizer and negatives",
    **dict.fromkeys(
        ("logit_temp", "same_quantizer", "quantizer_depth", "quantizer_factor", "latent_vars", "latent_groups"), "see final_dim"
    ),
    **dict.fromkeys(("latent_dim", "latent_temp", "num_negatives", "negatives_from_everywhere"), "see final_dim"),
    **dict.fromkeys(("cross_sample_negatives", "codebook_negatives"), "see final_dim"),
    **dict.fromkeys(("mask_other", "mask_min_space"), "only for other mask_selections, or for masks without overlap"),
    "require_same_masks": "always so here: the smallest count of a group",
    **dict.fromkeys(
        ("mask_channel_length", "mask_channel_before", "mask_channel_selection", "mask_channel_other"), "see mask_channel_prob"
    ),
    **dict.fromkeys(("no_mask_channel_overlap", "mask_channel_min_space"), "see mask_channel_prob"),
    **dict.fromkeys(("required_seq_len_multiple", "crop_seq_to_multiple"), "extra frames are masked in the attention and removed"),
    **dict.fromkeys(("max_positions", "depthwise_conv_kernel_size", "fp16"), "only for the conformer"),
    **dict.fromkeys(("adp_dim", "adp_act_fn", "adp_trf_idx"), "see adp_num"),
    "checkpoint_activations": "costs time, changes no number",
    "max_update": "length of the run",
}
"""fairseq's settings that are not converted -> why they change no number here."""


def speech_names(recipe: Recipe) -> NameTable:
    """Return the table that converts fairseq's tensors of a student to this project's and back. It also fits a teacher, if
    teacher_prefix() is put before its names."""
    model, frontend = recipe.model, recipe.frontend
    assert isinstance(frontend, SpeechFrontendConfig)
    extractor, ours = "feature_extractor.conv_layers.", "trunk.frontend."
    if frontend.extractor_norm == "layer":
        norm = same(extractor + "{n}.2.1.{leaf}", ours + "extractor.layers.{n}.norm.{leaf}")
    else:
        norm = same(extractor + "0.2.{leaf}", ours + "extractor.layers.0.norm.{leaf}")
    # one parameter, used before the first block (post-LN) or after the last block (pre-LN)
    entry_or_final_norm = "trunk.encoder.final_norm.{leaf}" if model.block.normalize_before else ours + "norm.{leaf}"
    return NameTable(
        [
            same(extractor + "{n}.0.{leaf}", ours + "extractor.layers.{n}.conv.{leaf}"),
            norm,
            same("layer_norm.{leaf}", ours + "feature_norm.{leaf}"),
            same("post_extract_proj.{leaf}", ours + "projection.{leaf}"),
            same("mask_emb", ours + "mask_vector"),
            *_position_entries(frontend),
            same("encoder.layer_norm.{leaf}", entry_or_final_norm),
            *block_entries("encoder.", model.num_attention_heads),
            same("final_proj.{leaf}", "head.layers.0.{leaf}"),
        ]
    )


def _position_entries(frontend: SpeechFrontendConfig) -> list[Entry]:
    theirs, ours = "encoder.pos_conv.", "trunk.frontend.positions.layers."
    if frontend.pos_conv_depth > 1:
        return [same(theirs + "{n}.0.{leaf}", ours + "{n}.{leaf}")]
    old = [same(f"{theirs}0.{name}", f"{ours}0.{name}") for name in ("weight_g", "weight_v", "bias")]
    new = "0.parametrizations.weight.original"  # name of the same pair in later torch versions
    return [*old, same(f"{theirs}{new}0", f"{ours}0.weight_g"), same(f"{theirs}{new}1", f"{ours}0.weight_v")]


def teacher_prefix(recipe: Recipe) -> str:
    """Return a prefix for the names of fairseq's teacher tensors: with it, they are the names of the same tensors in fairseq's student.
    "encoder."; or "" if teacher.shares is "nothing", since the teacher then is a whole model."""
    return "" if recipe.teacher.shares == "nothing" else "encoder."


def speech_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe that fairseq's data2vec_audio configuration describes. What it does not have (data, optimizer, run, most of
    guard) is the template's.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require(config, CAN_EXPRESS)
    require_known(config, (*CAN_EXPRESS, *TRANSLATED, *IGNORED))
    return replace(
        template,
        model=_encoder(config),
        frontend=_frontend(config),
        mask=SpanMaskConfig(prob=config["mask_prob"], length=config["mask_length"]),
        teacher=_teacher(config),
        loss=LossConfig(beta=config["loss_beta"], scale=config["loss_scale"]),
        guard=replace(template.guard, min_target_std=config["min_target_var"], min_pred_std=config["min_pred_var"]),
    )


def _encoder(config: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        num_layers=config["encoder_layers"],
        hidden_size=config["encoder_embed_dim"],
        ffn_hidden_size=config["encoder_ffn_embed_dim"],
        num_attention_heads=config["encoder_attention_heads"],
        hidden_dropout=config["dropout"],
        attention_dropout=config["attention_dropout"],
        activation_dropout=config["activation_dropout"],
        activation=config["activation_fn"],
        block=BlockConfig(normalize_before=config["layer_norm_first"], layerdrop=config["encoder_layerdrop"]),
        head_layers=1,
        head_init="torch",
    )


def _frontend(config: dict[str, Any]) -> SpeechFrontendConfig:
    dims, kernels, strides = zip(*parse_conv_layers(config["conv_feature_layers"]), strict=True)
    if len(set(dims)) > 1:
        raise ConfigError(
            f"conv_feature_layers has layers of {sorted(set(dims))} channels, which this model cannot express; give all the same"
        )
    depth, kernel = config.get("pos_conv_depth", 1), config["conv_pos"]
    return SpeechFrontendConfig(
        conv_dim=dims[0],
        conv_kernels=kernels,
        conv_strides=strides,
        conv_bias=config["conv_bias"],
        extractor_norm=EXTRACTOR_NORM[config["extractor_mode"]],
        pos_conv_depth=depth,
        pos_conv_kernel=max(3, kernel // depth) if depth > 1 else kernel,
        pos_conv_groups=config["conv_pos_groups"],
    )


def _teacher(config: dict[str, Any]) -> TeacherConfig:
    teacher = teacher_settings(config)
    if "instance" in teacher.average_norms and not {"instance", "batch"} & set(teacher.layer_norms):
        raise ConfigError(
            "instance_norm_targets is True without instance_norm_target_layer or batch_norm_target_layer: fairseq's audio model then "
            "norms over the batch, not over time, which this model cannot express"
        )
    shares: Shares = "features" if config["ema_transformer_only"] else "nothing"
    if config["ema_layers_only"]:
        shares = "frontend"
    if shares == "nothing":  # then fairseq's teacher is the whole model, which returns every layer and ignores K
        teacher = replace(teacher, average_top_k_layers=config["encoder_layers"])
    return replace(teacher, shares=shares)


def parse_conv_layers(expression: str) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) of each convolution, from the Python expression in fairseq's configuration: lists of triples
    with + and *. The expression is parsed, not executed.

    Raises: ConfigError for any other expression.
    """
    try:
        layers = _evaluate(ast.parse(expression.strip(), mode="eval").body)
        if layers and all(len(layer) == 3 and all(isinstance(size, int) and size > 0 for size in layer) for layer in layers):
            return [tuple(layer) for layer in layers]
    except (SyntaxError, TypeError, ValueError):
        pass
    raise ConfigError(f"conv_feature_layers is {expression!r}; write a list such as [(512, 10, 5)] + [(512, 3, 2)] * 4")


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _evaluate(node.left) + _evaluate(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _evaluate(node.left) * _evaluate(node.right)
    return ast.literal_eval(node)
