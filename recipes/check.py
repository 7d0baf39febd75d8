"""The recipe that a command asks for, and settings of it that contradict each other, found before anything is built.

Torch-free. Each section's types are checked where it is parsed (recipes/config.py), what the ds_config adds in
recipes/ds_config.py."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from model.config import BlockMaskConfig, TokenMaskConfig
from model.frontends.config import SpeechFrontendConfig, TextFrontendConfig, VisionFrontendConfig
from recipes.config import Recipe, SpeechDataConfig, TextDataConfig, apply_overrides
from recipes.errors import ConfigError

AT_LEAST: dict[str, float] = {
    **{f"model.{k}": 1 for k in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")},
    **{f"run.{k}": 1 for k in ("max_steps", "global_batch_size", "log_steps", "save_steps", "eval_steps")},
    **{f"mask.{k}": 1 for k in ("length", "min_masks", "num_patches", "min_block", "max_block")},
    **{f"frontend.{k}": 1 for k in ("conv_dim", "pos_conv_depth", "pos_conv_kernel", "pos_conv_groups", "patch_size", "num_channels")},
    **{f"optim.{k}": 0 for k in ("eps", "weight_decay", "clip_norm")},
    **{"run.seed": 0, "run.max_minutes": 0, "run.hang_seconds": 0},
    **{"model.head_layers": 0, "model.block.layernorm_epsilon": 0, "loss.beta": 0},
    **{"guard.max_skipped_in_a_row": 1, "guard.spike_deviations": 1, "guard.spike_window": 8},
    **{"checkpoint.keep_last": 1, "checkpoint.keep_every_steps": 0},
    **{"data.sequence_length": 2, "data.group_size": 1, "data.num_workers": 0, "data.min_seconds": 0},
}
SHARES = (
    *("model.hidden_dropout", "model.attention_dropout", "model.activation_dropout", "model.block.drop_path", "model.block.layerdrop"),
    *("mask.leave_unmasked_prob", "mask.random_token_prob", "teacher.ema_decay", "teacher.ema_end_decay"),
    *("data.flip_prob", "data.color_jitter", "data.max_bad_fraction"),
)


def resolve_recipe(name: str, recipes: dict[str, Callable[[], Recipe]], overrides: list[str], data: str | None) -> Recipe:
    """The named recipe with overrides applied and checked. Raises: ConfigError."""
    if name not in recipes:
        raise ConfigError(f"--recipe {name}: unknown; there are {', '.join(recipes)}")
    recipe = apply_overrides(recipes[name](), overrides)
    if data is not None:
        recipe = replace(recipe, data=replace(recipe.data, path=data))
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises: ConfigError with fact, numbers and remedy for the first contradiction."""
    _check_ranges(recipe)
    _check_model(recipe)
    _check_optim(recipe)
    SAMPLE_CHECKS[type(recipe.frontend)](recipe)


def _numbers(section: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of everything in a recipe."""
    found: dict[str, Any] = {}
    for item in fields(section):
        value = getattr(section, item.name)
        found |= _numbers(value, f"{prefix}{item.name}.") if hasattr(value, "__dataclass_fields__") else {prefix + item.name: value}
    return found


def _check_ranges(recipe: Recipe) -> None:
    numbers = _numbers(recipe)
    for name, least in AT_LEAST.items():
        if name in numbers and numbers[name] < least:
            raise ConfigError(f"{name} is {numbers[name]}; it must be at least {least}")
    for name in SHARES:
        if name in numbers and not 0 <= numbers[name] <= 1:
            raise ConfigError(f"{name} is {numbers[name]}; it must lie between 0 and 1")
    if "mask.prob" in numbers and not 0 < numbers["mask.prob"] <= 1:
        raise ConfigError(f"mask.prob is {numbers['mask.prob']}; it must be above 0 and at most 1")


def _check_model(recipe: Recipe) -> None:
    model, teacher = recipe.model, recipe.teacher
    if model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"model.hidden_size {model.hidden_size} is not a multiple of model.num_attention_heads {model.num_attention_heads}; change one"
        )
    if not 1 <= teacher.average_top_k_layers <= model.num_layers:
        raise ConfigError(
            f"teacher.average_top_k_layers {teacher.average_top_k_layers} of model.num_layers {model.num_layers}; "
            f"use --set teacher.average_top_k_layers=N with N from 1 to {model.num_layers}"
        )


def _check_optim(recipe: Recipe) -> None:
    optim = recipe.optim
    if optim.lr <= 0:
        raise ConfigError(f"optim.lr is {optim.lr}; it must be above 0")
    if not all(0 <= beta < 1 for beta in optim.betas):
        raise ConfigError(f"optim.betas are {optim.betas[0]} and {optim.betas[1]}; both must lie in [0, 1)")
    if optim.warmup_steps + optim.decay_steps > optim.schedule_steps:
        raise ConfigError(
            f"optim.warmup_steps {optim.warmup_steps} + optim.decay_steps {optim.decay_steps} exceed optim.schedule_steps "
            f"{optim.schedule_steps}; use --set optim.schedule_steps={optim.warmup_steps + optim.decay_steps} or shorten them"
        )
    if optim.schedule == "tri_stage" and optim.decay_steps and optim.final_lr_scale <= 0:
        raise ConfigError(
            f"optim.final_lr_scale {optim.final_lr_scale} with the exponential decay of tri_stage; it must be above 0 (published: 0.01)"
        )


def _check_text(recipe: Recipe) -> None:
    mask, frontend, data = recipe.mask, recipe.frontend, recipe.data
    assert isinstance(mask, TokenMaskConfig) and isinstance(frontend, TextFrontendConfig) and isinstance(data, TextDataConfig)
    if mask.leave_unmasked_prob + mask.random_token_prob >= 1 and not mask.loss_on_all_selected:
        raise ConfigError(
            f"mask.leave_unmasked_prob {mask.leave_unmasked_prob} + mask.random_token_prob {mask.random_token_prob} leave no <mask> "
            "for the loss to read; lower one"
        )
    if frontend.max_positions < data.sequence_length:
        raise ConfigError(
            f"frontend.max_positions {frontend.max_positions} is less than data.sequence_length {data.sequence_length}; "
            f"use --set frontend.max_positions={data.sequence_length} or a shorter sequence"
        )


def _check_speech(recipe: Recipe) -> None:
    frontend, data, width, total = recipe.frontend, recipe.data, recipe.model.hidden_size, recipe.run.global_batch_size
    assert isinstance(frontend, SpeechFrontendConfig) and isinstance(data, SpeechDataConfig)
    if min((*frontend.conv_kernels, *frontend.conv_strides), default=0) < 1:
        raise ConfigError(
            f"frontend.conv_kernels {frontend.conv_kernels} and frontend.conv_strides {frontend.conv_strides} must be lists of numbers "
            "above 0; the published ones are 10,3,3,3,3,2,2 and 5,2,2,2,2,2,2"
        )
    if len(frontend.conv_kernels) != len(frontend.conv_strides):
        raise ConfigError(
            f"frontend.conv_kernels has {len(frontend.conv_kernels)} values, frontend.conv_strides {len(frontend.conv_strides)}; one each"
        )
    if width % frontend.pos_conv_groups:
        raise ConfigError(
            f"model.hidden_size {width} is not a multiple of frontend.pos_conv_groups {frontend.pos_conv_groups}; "
            f"use --set frontend.pos_conv_groups={math.gcd(width, frontend.pos_conv_groups)}"
        )
    if data.max_seconds < data.min_seconds:
        raise ConfigError(f"data.max_seconds {data.max_seconds:g} is less than data.min_seconds {data.min_seconds:g}; swap them")
    if total % data.group_size:
        raise ConfigError(
            f"run.global_batch_size {total} is not a multiple of data.group_size {data.group_size}; "
            f"use --set data.group_size={math.gcd(total, data.group_size)} or another batch"
        )


def _check_vision(recipe: Recipe) -> None:
    frontend, mask = recipe.frontend, recipe.mask
    assert isinstance(frontend, VisionFrontendConfig) and isinstance(mask, BlockMaskConfig)
    if frontend.image_size % frontend.patch_size or frontend.grid < 2:
        raise ConfigError(
            f"frontend.image_size {frontend.image_size} is not 2 or more whole patches of frontend.patch_size {frontend.patch_size}; "
            f"use --set frontend.image_size={max(2, frontend.grid) * frontend.patch_size}"
        )
    if not 0 < mask.min_aspect <= 1:
        raise ConfigError(f"mask.min_aspect is {mask.min_aspect}; it must be above 0 and at most 1 (published: 0.3)")
    if mask.num_patches >= frontend.grid**2:
        raise ConfigError(
            f"mask.num_patches {mask.num_patches} of {frontend.grid**2} patches leaves none to see; "
            f"use --set mask.num_patches={int(0.6 * frontend.grid**2)} or fewer"
        )


SAMPLE_CHECKS: dict[type, Callable[[Recipe], None]] = {
    TextFrontendConfig: _check_text,
    SpeechFrontendConfig: _check_speech,
    VisionFrontendConfig: _check_vision,
}
"""What a modality's front-end, mask and data must agree on."""
