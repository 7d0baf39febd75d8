"""Vision recipes with the published numbers (paper 2202.03555v3 section 4.1 and data2vec_vision's beit/README.md, which was run)."""

from dataclasses import replace

import pytest

from recipes.plan.size import num_parameters, num_trunk_parameters
from recipes.vision import RECIPES, vision_base, vision_large, vision_large_second, vision_tiny
from tests.recipes.published import Numbers, numbers_of

IMAGES = 1_281_167
"""ImageNet-1K, training split."""
ARCHITECTURE = {
    "model": {"num_layers": 12, "hidden_size": 768, "ffn_hidden_size": 3072, "num_attention_heads": 12, "activation": "gelu"},
    "model.block": {
        **{"normalize_before": True, "layernorm_epsilon": 1e-6, "key_bias": False, "layer_scale": 1e-4, "drop_path": 0.25},
        **{"layerdrop": 0.0, "truncated_init": True, "depth_scaled_init": True},
    },
    "frontend": {"image_size": 224, "patch_size": 16, "num_channels": 3, "relative_bias": "shared"},
}
OBJECTIVE = {
    "model": {"hidden_dropout": 0.0, "attention_dropout": 0.05, "activation_dropout": 0.0, "init_std": 0.02, "head_layers": 1},
    "mask": {"num_patches": 120, "min_block": 16, "max_block": 196, "min_aspect": 0.3},
    "teacher": {
        **{"ema_decay": 0.9998, "ema_end_decay": 0.9998, "ema_anneal_end_step": 1, "average_top_k_layers": 6, "target": "block"},
        **{"layer_norms": ("layer",), "average_norms": ("layer",), "shares": "nothing"},
    },
    "loss": {"beta": 2.0, "scale": 1.0, "channels": "mean"},
}
TRAINING = {
    "data": {"crop_scale": (0.08, 1.0), "color_jitter": 0.4, "flip_prob": 0.5, "heldout_fraction": 0.002},
    "optim": {
        **{"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "clip_norm": 3.0, "decay_norms_and_biases": False},
        **{"schedule": "cosine", "schedule_steps": 800 * (IMAGES // 2048), "warmup_steps": 10 * (IMAGES // 2048)},
    },
    "run": {"max_steps": 800 * (IMAGES // 2048), "global_batch_size": 2048},
}
LARGE = {
    "model": {"num_layers": 24, "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16, "attention_dropout": 0.15},
    "model.block": {"layer_scale": 1e-5, "drop_path": 0.2, "normalize_before": True, "key_bias": False},
    "mask": {"num_patches": 120},
    "teacher": {"average_top_k_layers": 6, "ema_decay": 0.9998, "ema_end_decay": 0.9998},
    "optim": {"lr": 1e-3, "weight_decay": 0.05, "clip_norm": 3.0, "warmup_steps": 80 * (IMAGES // 4096)},
    "run": {"max_steps": 800 * (IMAGES // 4096), "global_batch_size": 4096},
}
"""The first 800 epochs."""
TINY = {
    "model": {
        **{"num_layers": 4, "hidden_size": 192, "ffn_hidden_size": 768, "num_attention_heads": 4, "head_layers": 1, "init_std": None},
        **{"hidden_dropout": 0.0, "attention_dropout": 0.0},
    },
    "model.block": {"layer_scale": 1.0, "drop_path": 0.0, "layernorm_epsilon": 1e-6},
    "frontend": {"image_size": 64, "patch_size": 8, "relative_bias": "shared"},
    "mask": {"num_patches": 38, "min_block": 5, "max_block": 64},
    "teacher": {
        **{"ema_decay": 0.99, "ema_end_decay": 0.999, "ema_anneal_end_step": 1_000, "average_top_k_layers": 3},
        **{"layer_norms": ("layer",), "average_norms": ("layer",)},
    },
    "data": {"crop_scale": (0.2, 1.0), "heldout_fraction": 0.05},
    "optim": {
        **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "clip_norm": 3.0, "decay_norms_and_biases": False},
        **{"schedule": "cosine", "schedule_steps": 1_800, "warmup_steps": 180, "final_lr_scale": 0.0},
    },
    "run": {"max_steps": 1_800, "global_batch_size": 32, "log_steps": 50, "save_steps": 450, "eval_steps": 300, "eval_samples": 128},
}
"""The numbers with which docs/vision.md's figures were measured."""
SMALL = TINY | {
    "model": TINY["model"] | {"num_layers": 3, "hidden_size": 128, "ffn_hidden_size": 512},
    "teacher": TINY["teacher"] | {"ema_anneal_end_step": 5_000, "layer_norms": ("instance",)},
    "optim": TINY["optim"] | {"schedule_steps": 10_000, "warmup_steps": 1_000},
    "run": {"max_steps": 10_000, "global_batch_size": 64},
}
"""The numbers with which docs/results.md's figures were measured."""


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *(("vision_base", ARCHITECTURE), ("vision_base", OBJECTIVE), ("vision_base", TRAINING)),
        *(("vision_large", LARGE), ("vision_tiny", TINY), ("vision_small", SMALL)),
    ],
    ids=["architecture", "objective", "training", "large", "tiny", "small"],
)
def test_published_and_measured_numbers_are_frozen(name: str, numbers: Numbers) -> None:
    assert numbers_of(RECIPES[name](), numbers) == numbers


@pytest.mark.parametrize("name", ["vision_base", "vision_large"])
def test_the_rate_ends_at_1e_5(name: str) -> None:
    optim = RECIPES[name]().optim
    assert optim.lr * optim.final_lr_scale == pytest.approx(1e-5)


def test_the_second_half_of_large_differs_in_its_start_the_decay_and_the_warm_up() -> None:
    """Paper section 4.1; beit/README.md: 40 epochs of warm-up."""
    first, second = vision_large(), vision_large_second()
    assert second.start.required and second.start.is_restarted and not first.start.required
    assert (second.teacher.ema_decay, second.teacher.ema_end_decay) == (0.9999, 0.9999)
    assert second.optim.warmup_steps == 40 * (IMAGES // 4096) == first.optim.warmup_steps // 2
    same = replace(second, name=first.name, teacher=first.teacher, start=first.start)
    assert replace(same, optim=first.optim) == first == replace(same, optim=replace(second.optim, warmup_steps=first.optim.warmup_steps))


@pytest.mark.parametrize("name", RECIPES)
def test_60_percent_of_the_patches_are_masked(name: str) -> None:
    """beit/README.md: 120 of 196, which is 61 %."""
    recipe = RECIPES[name]()
    assert 0.59 < recipe.mask.num_patches / recipe.frontend.grid**2 < 0.62  # type: ignore[union-attr]


def test_parameters_are_those_of_vit_with_layer_scale_and_one_bias_table() -> None:
    """Counted by hand: 12 d^2 in each block, biases of q, v, proj and both FFN matrices, two norms, two scales; 732 rows a head."""
    for recipe, d, layers, heads in ((vision_base(), 768, 12, 12), (vision_large(), 1024, 24, 16)):
        block = 12 * d * d + (2 + 1 + 4 + 1) * d + 2 * 2 * d + 2 * d
        frontend = 16 * 16 * 3 * d + d + 2 * d + ((2 * 14 - 1) ** 2 + 3) * heads
        assert num_trunk_parameters(recipe) == layers * block + frontend + 2 * d
        assert num_parameters(recipe) == num_trunk_parameters(recipe) + d * d + d
    assert num_trunk_parameters(vision_base()) == 85_666_128


def test_tiny_is_the_same_method_at_a_small_size() -> None:
    tiny, base = vision_tiny(), vision_base()
    assert (tiny.loss, tiny.teacher.target, tiny.teacher.shares) == (base.loss, "block", "nothing")
    assert tiny.model.block.normalize_before and not tiny.model.block.key_bias
    assert num_parameters(tiny) < num_parameters(base) / 30
