"""The recipe that a command asks for, and settings of it that contradict each other, found before anything is built.

Torch-free. Each section's types are checked where it is parsed (recipes/config.py), what the ds_config adds in
recipes/train/ds_config.py."""

from collections.abc import Callable
from dataclasses import replace

from recipes.config import Recipe, apply_overrides
from recipes.errors import ConfigError


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


def _check_ranges(recipe: Recipe) -> None:
    model, mask, teacher, run, optim = recipe.model, recipe.mask, recipe.teacher, recipe.run, recipe.optim
    smallest = {
        **{
            f"model.{k}": (getattr(model, k), 1)
            for k in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "head_layers")
        },
        **{f"run.{k}": (getattr(run, k), 1) for k in ("max_steps", "global_batch_size", "log_steps", "save_steps", "eval_steps")},
        "run.seed": (run.seed, 0),
        "mask.length": (mask.length, 1),
        "data.sequence_length": (recipe.data.sequence_length, 2),
        "loss.beta": (recipe.loss.beta, 0),
        "model.layernorm_epsilon": (model.layernorm_epsilon, 0),
        **{f"optim.{k}": (getattr(optim, k), 0) for k in ("eps", "weight_decay", "clip_norm")},
    }
    for name, (number, least) in smallest.items():
        if number < least:
            raise ConfigError(f"{name} is {number}; it must be at least {least}")
    shares = {
        **{f"model.{k}": getattr(model, k) for k in ("hidden_dropout", "attention_dropout", "activation_dropout")},
        **{f"mask.{k}": getattr(mask, k) for k in ("leave_unmasked_prob", "random_token_prob")},
        **{f"teacher.{k}": getattr(teacher, k) for k in ("ema_decay", "ema_end_decay")},
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is {share}; it must lie between 0 and 1")
    if not 0 < mask.prob <= 1:
        raise ConfigError(f"mask.prob is {mask.prob}; it must be above 0 and at most 1")
    if mask.leave_unmasked_prob + mask.random_token_prob >= 1 and not mask.loss_on_all_selected:
        raise ConfigError(
            f"mask.leave_unmasked_prob {mask.leave_unmasked_prob} + mask.random_token_prob {mask.random_token_prob} leave no <mask> "
            "for the loss to read; lower one"
        )


def _check_model(recipe: Recipe) -> None:
    model, teacher, frontend, data = recipe.model, recipe.teacher, recipe.frontend, recipe.data
    if model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"model.hidden_size {model.hidden_size} is not a multiple of model.num_attention_heads {model.num_attention_heads}; change one"
        )
    if not 1 <= teacher.average_top_k_layers <= model.num_layers:
        raise ConfigError(
            f"teacher.average_top_k_layers {teacher.average_top_k_layers} of model.num_layers {model.num_layers}; "
            f"use --set teacher.average_top_k_layers=N with N from 1 to {model.num_layers}"
        )
    if frontend.max_positions < data.sequence_length:
        raise ConfigError(
            f"frontend.max_positions {frontend.max_positions} is less than data.sequence_length {data.sequence_length}; "
            f"use --set frontend.max_positions={data.sequence_length} or a shorter sequence"
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
