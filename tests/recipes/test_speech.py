"""Speech recipes with the published numbers (paper 2202.03555v3 section 4.2, fairseq base_librispeech.yaml and data2vec_audio.py)."""

import pytest

from recipes.plan.size import num_parameters, num_trunk_parameters
from recipes.speech import RECIPES, speech_base, speech_large, speech_tiny
from tests.recipes.published import Numbers, numbers_of

ARCHITECTURE = {
    "model": {"num_layers": 12, "hidden_size": 768, "ffn_hidden_size": 3072, "num_attention_heads": 12, "activation": "gelu"},
    "frontend": {
        **{"conv_dim": 512, "conv_kernels": (10, 3, 3, 3, 3, 2, 2), "conv_strides": (5, 2, 2, 2, 2, 2, 2), "conv_bias": False},
        **{"extractor_norm": "layer", "pos_conv_depth": 5, "pos_conv_kernel": 19, "pos_conv_groups": 16, "exact_padding": False},
    },
    "model.block": {"normalize_before": False, "layernorm_epsilon": 1e-5, "layerdrop": 0.05, "drop_path": 0.0, "layer_scale": None},
}
"""base_librispeech.yaml; one Linear as the head, initialised by torch (data2vec_audio.py final_proj)."""
OBJECTIVE = {
    "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "head_layers": 1, "head_init": "torch"},
    "mask": {"prob": 0.65, "length": 10, "min_masks": 1},
    "teacher": {
        **{"ema_decay": 0.999, "ema_end_decay": 0.9999, "ema_anneal_end_step": 30_000, "average_top_k_layers": 8},
        **{"target": "ffn", "layer_norms": ("instance",), "average_norms": (), "shares": "frontend"},
    },
    "loss": {"beta": 0.0, "scale": None, "channels": "sum"},
}
TRAINING = {
    "data": {"sample_rate": 16_000, "min_seconds": 2.0, "max_seconds": 20.0, "group_size": 8, "heldout_fraction": 0.001},
    "optim": {
        **{"lr": 5e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01, "clip_norm": 0.0, "decay_norms_and_biases": True},
        **{"schedule": "tri_stage", "schedule_steps": 400_000, "warmup_steps": 12_000, "decay_steps": 28_000, "final_lr_scale": 0.01},
    },
    "run": {"max_steps": 400_000},
    "guard": {"min_target_std": 0.1, "min_pred_std": 0.01, "after_steps": 5_000},
}
LARGE = {
    "model": {"num_layers": 24, "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16, "head_layers": 1},
    "model.block": {"normalize_before": False, "layerdrop": 0.0},
    "teacher": {"average_top_k_layers": 16, "layer_norms": ("instance",), "ema_anneal_end_step": 30_000},
    "optim": {"lr": 4e-4, "clip_norm": 1.0, "schedule": "cosine", "schedule_steps": 600_000, "warmup_steps": 10_000, "decay_steps": 0},
    "run": {"max_steps": 600_000},
}
"""Sizes of the published checkpoint; optimisation of data2vec 2.0's large_audio_only_task.yaml."""
TINY = {
    "model": {
        **{"num_layers": 4, "hidden_size": 192, "ffn_hidden_size": 768, "num_attention_heads": 4, "head_layers": 1, "init_std": None},
        **{"hidden_dropout": 0.0, "attention_dropout": 0.0, "head_init": "torch"},
    },
    "frontend": {"conv_dim": 64, "extractor_norm": "group"},
    "teacher": {"ema_decay": 0.9995, "ema_end_decay": 0.9995, "ema_anneal_end_step": 1, "average_top_k_layers": 3},
    "data": {"max_seconds": 2.0, "group_size": 16, "heldout_fraction": 0.05},
    "optim": {"lr": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0, "schedule": "cosine", "schedule_steps": 600, "warmup_steps": 60},
    "run": {"max_steps": 600, "global_batch_size": 16, "log_steps": 25, "save_steps": 200, "eval_steps": 150, "eval_samples": 128},
}
"""The numbers with which docs/speech.md's figures were measured."""
SMALL = TINY | {
    "optim": TINY["optim"] | {"schedule_steps": 8_000, "warmup_steps": 300},
    "run": {"max_steps": 8_000, "global_batch_size": 16},
}
"""The numbers with which docs/results.md's figures were measured."""


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *(("speech_base", ARCHITECTURE), ("speech_base", OBJECTIVE), ("speech_base", TRAINING)),
        *(("speech_large", LARGE), ("speech_tiny", TINY), ("speech_small", SMALL)),
    ],
    ids=["architecture", "objective", "training", "large", "tiny", "small"],
)
def test_published_and_measured_numbers_are_frozen(name: str, numbers: Numbers) -> None:
    assert numbers_of(RECIPES[name](), numbers) == numbers


def test_base_and_large_have_the_published_checkpoints_parameters() -> None:
    """Base with its head, as trained by fairseq. Large without, as in the published checkpoint."""
    assert num_parameters(speech_base()) == 93_754_880
    assert num_trunk_parameters(speech_large()) == 313_276_416


def test_the_positional_kernel_and_the_schedule_follow_from_the_published_ones() -> None:
    recipe = speech_base()
    assert recipe.frontend.pos_conv_kernel == max(3, 95 // 5)  # type: ignore[union-attr] # conv_pos 95, pos_conv_depth 5
    optim = recipe.optim
    assert (100 * optim.warmup_steps, 100 * optim.decay_steps) == (3 * optim.schedule_steps, 7 * optim.schedule_steps)


def test_a_batch_is_about_the_published_63_minutes() -> None:
    """LibriSpeech: 960.9 h in 281,241 recordings."""
    mean_minutes = 960.9 * 60 / 281_241
    assert 0.9 < speech_base().run.global_batch_size * mean_minutes / 63 < 1.1


@pytest.mark.parametrize("name", RECIPES)
def test_groups_divide_the_batch(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.run.global_batch_size % recipe.data.group_size == 0


def test_tiny_is_the_same_method_at_a_small_size() -> None:
    tiny, base = speech_tiny(), speech_base()
    assert (tiny.mask, tiny.loss, tiny.teacher.layer_norms, tiny.teacher.shares) == (base.mask, base.loss, ("instance",), "frontend")
    assert num_parameters(tiny) < num_parameters(base) / 30
