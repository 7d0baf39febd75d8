"""Text recipes: consistent, torch-free, and with the published numbers (docs: paper 2202.03555v3, fairseq base.yaml)."""

import pytest

from model.config import BlockConfig
from recipes.check import check_recipe
from recipes.text import RECIPES
from tests.recipes.published import Numbers, numbers_of

BASE = {
    "model": {"num_layers": 12, "hidden_size": 768, "ffn_hidden_size": 3072, "num_attention_heads": 12, "head_layers": 2},
    "frontend": {"vocab_size": 50265, "max_positions": 512, "positions": "absolute", "embedding_init_std": 0.02},
    "mask": {"prob": 0.35, "length": 4, "leave_unmasked_prob": 0.0, "random_token_prob": 0.0, "loss_on_all_selected": False},
    "teacher": {"ema_decay": 0.999, "ema_end_decay": 0.9999, "ema_anneal_end_step": 300_000, "average_top_k_layers": 10},
    "loss": {"beta": 4.0, "scale": 1.0},
    "data": {"sequence_length": 512, "break_mode": "complete_doc", "heldout_fraction": 0.001},
    "optim": {"lr": 2e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01, "clip_norm": 5.0},
    "run": {"max_steps": 1_000_000, "global_batch_size": 256},
}
BASE_TOO = {
    "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0, "activation": "gelu", "init_std": 0.02},
    "teacher": {"target": "ffn", "layer_norms": ("layer",), "average_norms": (), "shares": "frontend"},
    "loss": {"channels": "sum"},
    "optim": {
        "schedule": "cosine",
        "schedule_steps": 1_000_000,
        "warmup_steps": 10_000,
        "final_lr_scale": 0.0,
        "decay_norms_and_biases": True,
    },
}
LARGE = {
    "model": {"num_layers": 24, "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16},
    "teacher": {"average_top_k_layers": 20, "ema_decay": 0.999, "ema_end_decay": 0.9999},
    "loss": {"beta": 4.0},
    "optim": {"lr": 1e-4, "betas": (0.9, 0.98)},
    "run": {"global_batch_size": 256},
}
BERT_MASK = {
    "model": {"num_layers": 12, "hidden_size": 768},
    "mask": {"prob": 0.15, "length": 1, "leave_unmasked_prob": 0.1, "random_token_prob": 0.1},
    "teacher": {"ema_anneal_end_step": 100_000},
    "optim": {"schedule": "tri_stage", "warmup_steps": 50_000, "decay_steps": 150_000, "schedule_steps": 1_000_000, "final_lr_scale": 0.01},
}


TINY = {
    "model": {
        **{"num_layers": 3, "hidden_size": 128, "ffn_hidden_size": 512, "num_attention_heads": 4, "head_layers": 2, "init_std": None},
        **{"hidden_dropout": 0.0, "attention_dropout": 0.0},
    },
    "frontend": {"vocab_size": 2000, "max_positions": 512, "positions": "relative", "embedding_init_std": 0.1},
    "mask": {"prob": 0.3, "length": 1},
    "teacher": {
        **{"ema_decay": 0.999, "ema_end_decay": 0.9999, "ema_anneal_end_step": 2_000, "average_top_k_layers": 3},
        **{"layer_norms": ("instance",), "average_norms": ("layer",), "shares": "nothing"},
    },
    "loss": {"beta": 4.0, "scale": 1.0},
    "data": {
        **{"tokenizer_type": "unigram", "lowercase": True, "tokenizer_sample_megabytes": 8},
        **{"sequence_length": 128, "break_mode": "none", "heldout_fraction": 0.02},
    },
    "optim": {"lr": 2e-3, "weight_decay": 0.01, "clip_norm": 5.0, "schedule": "cosine", "schedule_steps": 2_000, "warmup_steps": 100},
    "run": {"max_steps": 2_000, "global_batch_size": 16, "log_steps": 50, "save_steps": 500, "eval_steps": 250, "eval_samples": 256},
}
"""The numbers with which docs/text.md's figures were measured."""
SMALL = {
    "model": TINY["model"],
    "model.block": {"normalize_before": True},
    "frontend": TINY["frontend"] | {"vocab_size": 8000},
    "mask": TINY["mask"],
    "teacher": TINY["teacher"] | {"target": "block", "ema_anneal_end_step": 22_000},
    "loss": TINY["loss"],
    "data": TINY["data"],
    "optim": TINY["optim"] | {"weight_decay": 0.02, "schedule_steps": 22_000, "warmup_steps": 600},
    "run": {"max_steps": 22_000, "global_batch_size": 16},
}
"""The numbers with which docs/results.md's figures were measured."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_consistent_and_has_its_name(name: str) -> None:
    recipe = RECIPES[name]()
    check_recipe(recipe)
    assert (recipe.name, recipe.modality, recipe.data.path) == (name, "text", None)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        *(("text_base", BASE), ("text_base", BASE_TOO), ("text_large", LARGE), ("text_base_bert_mask", BERT_MASK)),
        *(("text_tiny", TINY), ("text_small", SMALL)),
    ],
)
def test_published_and_measured_numbers_are_frozen(name: str, numbers: Numbers) -> None:
    assert numbers_of(RECIPES[name](), numbers) == numbers


@pytest.mark.parametrize("name", RECIPES)
def test_blocks_are_plain_post_ln_ones_but_for_those_of_small(name: str) -> None:
    assert RECIPES[name]().model.block == BlockConfig(normalize_before="small" in name)


def test_the_tiny_batch_divides_over_eight_ranks() -> None:
    assert RECIPES["text_tiny"]().run.global_batch_size % 8 == 0
