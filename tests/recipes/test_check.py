"""Each contradiction inside a recipe is found before anything is built, with the numbers in the message."""

import pytest

from recipes.check import check_recipe
from recipes.config import apply_overrides
from recipes.errors import ConfigError
from recipes.text import text_base

REFUSED = [
    (["model.num_attention_heads=7"], r"model\.hidden_size 768 is not a multiple of model\.num_attention_heads 7"),
    (
        ["model.num_layers=4"],
        r"average_top_k_layers 10 of model\.num_layers 4; use --set teacher\.average_top_k_layers=N with N from 1 to 4",
    ),
    (["teacher.average_top_k_layers=0"], r"average_top_k_layers 0 of model\.num_layers 12"),
    (["data.sequence_length=1024"], r"max_positions 512 is less than data\.sequence_length 1024; use --set frontend\.max_positions=1024"),
    (["model.num_layers=0"], r"model\.num_layers is 0; it must be at least 1"),
    (["model.num_attention_heads=0"], r"model\.num_attention_heads is 0"),
    (["model.hidden_size=-768"], r"model\.hidden_size is -768"),
    (["model.ffn_hidden_size=0"], r"model\.ffn_hidden_size is 0"),
    (["model.head_layers=0"], r"model\.head_layers is 0"),
    (["run.max_steps=0"], r"run\.max_steps is 0"),
    (["run.global_batch_size=0"], r"run\.global_batch_size is 0"),
    (["run.log_steps=0"], r"run\.log_steps is 0"),
    (["run.save_steps=-1"], r"run\.save_steps is -1"),
    (["run.eval_steps=0"], r"run\.eval_steps is 0"),
    (["run.seed=-1"], r"run\.seed is -1; it must be at least 0"),
    (["mask.length=0"], r"mask\.length is 0"),
    (["data.sequence_length=1"], r"data\.sequence_length is 1; it must be at least 2"),
    (["loss.beta=-1"], r"loss\.beta is -1\.0; it must be at least 0"),
    (["model.layernorm_epsilon=-1"], r"model\.layernorm_epsilon is -1\.0"),
    (["model.hidden_dropout=1.5"], r"model\.hidden_dropout is 1\.5; it must lie between 0 and 1"),
    (["model.attention_dropout=-0.1"], r"model\.attention_dropout is -0\.1"),
    (["model.activation_dropout=2"], r"model\.activation_dropout is 2\.0"),
    (["teacher.ema_decay=1.1"], r"teacher\.ema_decay is 1\.1"),
    (["teacher.ema_end_decay=-1"], r"teacher\.ema_end_decay is -1\.0"),
    (["mask.prob=0"], r"mask\.prob is 0\.0; it must be above 0"),
    (["mask.prob=1.01"], r"mask\.prob is 1\.01"),
    (["mask.random_token_prob=-0.1"], r"mask\.random_token_prob is -0\.1"),
    (
        ["mask.leave_unmasked_prob=0.6", "mask.random_token_prob=0.4"],
        r"leave_unmasked_prob 0\.6 \+ mask\.random_token_prob 0\.4 leave no <mask>",
    ),
    (["optim.lr=0"], r"optim\.lr is 0\.0; it must be above 0"),
    (["optim.lr=-1"], r"optim\.lr is -1\.0"),
    (["optim.clip_norm=-1"], r"optim\.clip_norm is -1\.0"),
    (["optim.weight_decay=-1"], r"optim\.weight_decay is -1\.0"),
    (["optim.eps=-1"], r"optim\.eps is -1\.0"),
    (["optim.betas=0.9,1"], r"optim\.betas are 0\.9 and 1\.0; both must lie in \[0, 1\)"),
    (["optim.betas=-0.1,0.9"], r"optim\.betas are -0\.1 and 0\.9"),
    (
        ["optim.schedule_steps=5000"],
        r"warmup_steps 10000 \+ optim\.decay_steps 0 exceed optim\.schedule_steps 5000; use --set optim\.schedule_steps=10000",
    ),
    (["optim.schedule=tri_stage", "optim.decay_steps=10"], r"final_lr_scale 0\.0 with the exponential decay of tri_stage"),
]
ALLOWED = [
    ["teacher.average_top_k_layers=12"],
    ["teacher.average_top_k_layers=1"],
    ["mask.prob=1"],
    ["mask.leave_unmasked_prob=0.6", "mask.random_token_prob=0.4", "mask.loss_on_all_selected=true"],
    ["optim.clip_norm=0", "optim.weight_decay=0", "loss.beta=0", "run.seed=0"],
    ["optim.schedule_steps=10000"],
    ["optim.schedule=tri_stage", "optim.decay_steps=10", "optim.final_lr_scale=0.01"],
    ["optim.schedule=tri_stage", "optim.decay_steps=0"],
    ["teacher.ema_decay=1", "teacher.ema_end_decay=1"],
    ["frontend.max_positions=1024", "data.sequence_length=1024"],
]


@pytest.mark.parametrize(("changes", "complaint"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_contradiction_is_refused_with_its_numbers(changes: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        check_recipe(apply_overrides(text_base(), changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", ALLOWED, ids=" ".join)
def test_the_edge_of_what_is_allowed_passes(changes: list[str]) -> None:
    check_recipe(apply_overrides(text_base(), changes))
