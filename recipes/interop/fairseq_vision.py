"""fairseq's data2vec vision (its port of BEiT's code): conversion of its parameter names and its configuration to this project's.

Source of names: fairseq data2vec_vision.py at the commit that data2vec.md names.
"""

from dataclasses import replace
from typing import Any, Literal

from model.config import BlockConfig, BlockMaskConfig, EncoderConfig, LossConfig
from model.frontends.config import VisionFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.names import Entry, NameTable, head_by_head, query_value_bias, renamed, same, transposed, unread, vector
from recipes.interop.settings import require_known, teacher_settings

TRANSLATED = (
    *("layer_scale_init_value", "num_mask_patches", "min_mask_patches_per_block", "max_mask_patches_per_block", "image_size"),
    *("patch_size", "in_channels", "shared_rel_pos_bias", "drop_path", "attention_dropout", "depth", "embed_dim", "num_heads"),
    *("loss_beta", "loss_scale", "average_top_k_layers", "end_of_block_targets", "layer_norm_target_layer"),
    *("instance_norm_target_layer", "batch_norm_target_layer", "instance_norm_targets", "layer_norm_targets", "ema_decay"),
    *("ema_end_decay", "ema_anneal_end_step", "ema_transformer_only"),
)
IGNORED = {"_name": "the class", "mlp_ratio": "never read: the port's blocks have 4"}
"""fairseq's settings that are not converted -> why they change no number here."""
FFN_RATIO = 4


def vision_names(recipe: Recipe) -> NameTable:
    """Return the table that converts fairseq's tensors of a student to this project's and back. It also fits a teacher, if
    teacher_prefix() is put before its names. fairseq's `final_proj` is left out, since its forward never calls it."""
    ours = "trunk.frontend."
    return NameTable(
        [
            vector("cls_emb", ours + "cls_vector"),
            vector("mask_emb", ours + "mask_vector"),
            same("patch_embed.conv.{leaf}", ours + "patches.{leaf}"),
            transposed("encoder.rel_pos_bias.relative_position_bias_table", ours + "relative_bias.weight"),
            transposed("encoder.blocks.{n}.attn.relative_position_bias_table", ours + "relative_bias.{n}.weight"),
            *_block_entries(recipe.model.num_attention_heads),
            same("encoder.norm.{leaf}", "trunk.encoder.final_norm.{leaf}"),
            *unread("final_proj.{leaf}", "encoder.rel_pos_bias.relative_position_index"),
            *unread("encoder.blocks.{n}.attn.relative_position_index"),
        ]
    )


def _block_entries(num_heads: int) -> list[Entry]:
    theirs, ours = "encoder.blocks.{n}.", "trunk.encoder.layers.{n}."
    parts = {"norm1": "attention_norm", "attn.proj": "attention.proj", "norm2": "ffn_norm", "mlp.0": "ffn.fc1", "mlp.2": "ffn.fc2"}
    return [
        head_by_head((theirs + "attn.qkv.weight",), ours + "attention.qkv.weight", num_heads),
        query_value_bias(theirs + "attn.q_bias", theirs + "attn.v_bias", ours + "attention.query_value_bias.weight", num_heads),
        same(theirs + "gamma_1", ours + "attention_scale.weight"),
        same(theirs + "gamma_2", ours + "ffn_scale.weight"),
        *renamed(theirs, ours, parts),
    ]


def teacher_prefix(recipe: Recipe) -> str:
    """Return a prefix for the names of fairseq's teacher tensors: with it, they are the names of the same tensors in fairseq's student.
    "encoder."; or "" if teacher.shares is "nothing", since the teacher then is a whole model."""
    return "" if recipe.teacher.shares == "nothing" else "encoder."


def vision_recipe(template: Recipe, config: dict[str, Any]) -> Recipe:
    """Return the recipe that fairseq's data2vec_vision configuration describes. What does not change the tensors (data, optimizer, run,
    initialisation) is the template's.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    require_known(config, (*TRANSLATED, *IGNORED))
    if config["image_size"] % config["patch_size"]:
        raise ConfigError(f"image_size {config['image_size']} is not a multiple of patch_size {config['patch_size']}, as this model needs")
    scale = config["loss_scale"]
    target: Literal["ffn", "block"] = "block" if config["end_of_block_targets"] else "ffn"
    return replace(
        template,
        model=_encoder(template.model, config),
        frontend=VisionFrontendConfig(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            num_channels=config["in_channels"],
            relative_bias="shared" if config["shared_rel_pos_bias"] else "per_layer",
        ),
        mask=BlockMaskConfig(
            num_patches=config["num_mask_patches"],
            min_block=config["min_mask_patches_per_block"],
            max_block=config["max_mask_patches_per_block"],
        ),
        teacher=replace(teacher_settings(config), target=target, shares="features" if config["ema_transformer_only"] else "nothing"),
        loss=LossConfig(beta=config["loss_beta"], scale=1.0 if scale is not None and scale <= 0 else scale),  # not positive: no scale
    )


def _encoder(template: EncoderConfig, config: dict[str, Any]) -> EncoderConfig:
    return EncoderConfig(
        num_layers=config["depth"],
        hidden_size=config["embed_dim"],
        ffn_hidden_size=FFN_RATIO * config["embed_dim"],
        num_attention_heads=config["num_heads"],
        hidden_dropout=0.0,
        attention_dropout=config["attention_dropout"],
        block=BlockConfig(
            normalize_before=True,
            key_bias=False,
            layer_scale=config["layer_scale_init_value"] if config["layer_scale_init_value"] > 0 else None,
            drop_path=config["drop_path"],
            truncated_init=template.block.truncated_init,
            depth_scaled_init=template.block.depth_scaled_init,
        ),
        init_std=template.init_std,
        head_layers=0,
    )
