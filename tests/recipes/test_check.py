"""Each contradiction inside a recipe is found before anything is built, with the numbers in the message."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from recipes.catalog import RECIPES
from recipes.check import check_recipe, resolve_recipe
from recipes.config import Data2VecConfig, ObjectiveConfig, Recipe
from recipes.errors import ConfigError
from recipes.settings import apply_overrides, bounded_names
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base, vision_tiny

REFUSED = [
    (["model.num_attention_heads=7"], r"model\.hidden_size 768 is not a multiple of model\.num_attention_heads 7"),
    (
        ["model.num_layers=4"],
        r"average_top_k_layers 10 of model\.num_layers 4; use --set teacher\.average_top_k_layers=N with N from 1 to 4",
    ),
    (["teacher.average_top_k_layers=0"], r"teacher\.average_top_k_layers is 0; it must be at least 1"),
    (["data.sequence_length=1024"], r"max_positions 512 is less than data\.sequence_length 1024; use --set frontend\.max_positions=1024"),
    (
        ["frontend.positions=relative", "data.sequence_length=1024"],
        r"max_positions 512 is less than data\.sequence_length 1024",
    ),
    (["model.num_attention_heads=7", "model.ffn_hidden_size=3073"], r"model\.hidden_size 768 is not a multiple"),
    (["guard.max_skipped_in_a_row=0"], r"guard\.max_skipped_in_a_row is 0; it must be at least 1"),
    (["guard.spike_deviations=0.5"], r"guard\.spike_deviations is 0\.5; it must be at least 1"),
    (["guard.spike_window=7"], r"guard\.spike_window is 7; it must be at least 8"),
    (["checkpoint.keep_last=0"], r"checkpoint\.keep_last is 0; it must be at least 1"),
    (["checkpoint.keep_every_steps=-1"], r"checkpoint\.keep_every_steps is -1; it must be at least 0"),
    (["mask.leave_unmasked_prob=1.5", "mask.loss_on_all_selected=true"], r"mask\.leave_unmasked_prob is 1\.5; it must lie between 0 and 1"),
    (["model.num_layers=0"], r"model\.num_layers is 0; it must be at least 1"),
    (["model.num_attention_heads=0"], r"model\.num_attention_heads is 0"),
    (["model.hidden_size=-768"], r"model\.hidden_size is -768"),
    (["model.ffn_hidden_size=0"], r"model\.ffn_hidden_size is 0"),
    (["model.head_layers=-1"], r"model\.head_layers is -1; it must be at least 0"),
    (["run.max_steps=0"], r"run\.max_steps is 0"),
    (["run.global_batch_size=0"], r"run\.global_batch_size is 0; it must lie between 1 and 1048576"),
    (["run.log_steps=0"], r"run\.log_steps is 0"),
    (["run.save_steps=-1"], r"run\.save_steps is -1"),
    (["run.eval_samples=-1"], r"run\.eval_samples is -1; it must be at least 0"),
    (["run.eval_steps=0"], r"run\.eval_steps is 0"),
    (["run.max_minutes=-1"], r"run\.max_minutes is -1\.0; it must be at least 0"),
    (["run.hang_seconds=-1"], r"run\.hang_seconds is -1\.0; it must be at least 0"),
    (["run.seed=-1"], r"run\.seed is -1; it must lie between 0 and 9223372036854775807"),
    (["run.seed=9223372036854775808"], r"run\.seed is 9223372036854775808"),
    (
        ["run.max_steps=1000001"],
        r"max_steps 1000001 is more than optim\.schedule_steps 1000000, .* rate is 0; use --set optim\.schedule_steps=1000001",
    ),
    (["optim.schedule_steps=0"], r"optim\.schedule_steps is 0; it must be at least 1"),
    (["optim.final_lr_scale=-0.5"], r"optim\.final_lr_scale is -0\.5; it must lie between 0 and 1"),
    (["guard.min_target_std=-1"], r"guard\.min_target_std is -1\.0"),
    (["guard.min_pred_std=-1"], r"guard\.min_pred_std is -1\.0"),
    (["guard.after_steps=-1"], r"guard\.after_steps is -1"),
    (["loss.scale=0"], r"loss\.scale is 0\.0; it must be above 0"),
    (["data.heldout_fraction=1"], r"data\.heldout_fraction is 1\.0; it must be at least 0 and below 1"),
    (["mask.length=513"], r"mask\.length 513 is more than data\.sequence_length 512; use --set mask\.length=4"),
    (["mask.length=0"], r"mask\.length is 0"),
    (["data.sequence_length=1"], r"data\.sequence_length is 1; it must be at least 2"),
    (["data.tokenizer_sample_megabytes=0"], r"data\.tokenizer_sample_megabytes is 0; it must be at least 1"),
    (["frontend.vocab_size=0"], r"frontend\.vocab_size is 0; it must be at least 6"),
    (["frontend.max_positions=0"], r"frontend\.max_positions is 0; it must be at least 1"),
    (["frontend.embedding_init_std=-1"], r"frontend\.embedding_init_std is -1\.0; it must be at least 0"),
    (["loss.beta=-1"], r"loss\.beta is -1\.0; it must be at least 0"),
    (["model.block.layernorm_epsilon=-1"], r"model\.block\.layernorm_epsilon is -1\.0"),
    (["model.block.layer_scale=-1"], r"model\.block\.layer_scale is -1\.0; it must be at least 0"),
    (["model.init_std=-0.02"], r"model\.init_std is -0\.02; it must be at least 0"),
    (["model.block.drop_path=1.5"], r"model\.block\.drop_path is 1\.5; it must lie between 0 and 1"),
    (["model.block.layerdrop=-0.1"], r"model\.block\.layerdrop is -0\.1; it must lie"),
    (["model.hidden_dropout=1.5"], r"model\.hidden_dropout is 1\.5; it must lie between 0 and 1"),
    (["model.attention_dropout=-0.1"], r"model\.attention_dropout is -0\.1"),
    (["model.activation_dropout=2"], r"model\.activation_dropout is 2\.0"),
    (["teacher.ema_decay=1.1"], r"teacher\.ema_decay is 1\.1"),
    (["teacher.ema_end_decay=-1"], r"teacher\.ema_end_decay is -1\.0"),
    (["teacher.ema_anneal_end_step=-1"], r"teacher\.ema_anneal_end_step is -1; it must be at least 0"),
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
    (["optim.warmup_steps=-1"], r"optim\.warmup_steps is -1; it must be at least 0"),
    (["optim.decay_steps=-1"], r"optim\.decay_steps is -1; it must be at least 0"),
    (["optim.betas=0.9,1"], r"optim\.betas is \(0\.9, 1\.0\); each must be at least 0 and below 1"),
    (["optim.betas=-0.1,0.9"], r"optim\.betas is \(-0\.1, 0\.9\); each must"),
    (
        ["optim.schedule_steps=5000", "run.max_steps=10"],
        r"warmup_steps 10000 \+ optim\.decay_steps 0 exceed optim\.schedule_steps 5000; use --set optim\.schedule_steps=10000",
    ),
    (
        ["optim.schedule=tri_stage", "optim.final_lr_scale=0.01", "optim.warmup_steps=500000", "optim.decay_steps=500001"],
        r"warmup_steps 500000 \+ optim\.decay_steps 500001 exceed optim\.schedule_steps 1000000; use --set optim\.schedule_steps=1000001",
    ),
    (["optim.schedule=tri_stage", "optim.decay_steps=10"], r"final_lr_scale 0\.0 with the exponential decay of tri_stage"),
]
REFUSED_SPEECH = [
    (["mask.min_masks=0"], r"mask\.min_masks is 0; it must be at least 1"),
    (["mask.length=0"], r"mask\.length is 0; it must be at least 1"),
    (["mask.prob=0"], r"mask\.prob is 0\.0; it must be above 0"),
    (["frontend.conv_dim=0"], r"frontend\.conv_dim is 0"),
    (["frontend.pos_conv_depth=0"], r"frontend\.pos_conv_depth is 0"),
    (["frontend.pos_conv_kernel=0"], r"frontend\.pos_conv_kernel is 0"),
    (["frontend.pos_conv_groups=0"], r"frontend\.pos_conv_groups is 0"),
    (["data.group_size=0"], r"data\.group_size is 0"),
    (["data.num_workers=-1"], r"data\.num_workers is -1; it must lie between 0 and 256"),
    (["data.min_seconds=-1"], r"data\.min_seconds is -1\.0"),
    (["data.max_bad_fraction=1.5"], r"data\.max_bad_fraction is 1\.5; it must lie between 0 and 1"),
    (["frontend.conv_kernels=10,-3,3,3,3,2,2"], r"frontend\.conv_kernels is \(10, -3, .*each must be at least 1"),
    (["frontend.conv_strides=5,0,2,2,2,2,2"], r"frontend\.conv_strides is \(5, 0, 2, .*each must be at least 1"),
    (["frontend.conv_kernels=", "frontend.conv_strides="], r"conv_kernels is empty; the published ones are"),
    (["data.max_seconds=0"], r"data\.max_seconds is 0\.0; it must be above 0"),
    (
        ["data.max_seconds=0.2", "data.min_seconds=0.1"],
        r"mask\.length 10 leaves none of the 9 frames to see that data\.max_seconds 0\.2 at",
    ),
    (["data.sample_rate=0"], r"data\.sample_rate is 0; it must be at least 1"),
    (["data.heldout_fraction=1"], r"data\.heldout_fraction is 1\.0; it must be at least 0 and below 1"),
    (["frontend.conv_kernels=10,3"], r"conv_kernels has 2 values, frontend\.conv_strides 7; one each"),
    (
        ["frontend.pos_conv_groups=7"],
        r"model\.hidden_size 768 is not a multiple of frontend\.pos_conv_groups 7; use --set frontend\.pos_conv_groups=1$",
    ),
    (["frontend.pos_conv_groups=36"], r"use --set frontend\.pos_conv_groups=12$"),
    (["data.max_seconds=1"], r"data\.max_seconds 1 is less than data\.min_seconds 2; swap them"),
    (
        ["run.global_batch_size=12"],
        r"batch_size 12 is not a multiple of data\.group_size 8; use --set data\.group_size=4 or another",
    ),
    (["model.num_attention_heads=7"], r"model\.hidden_size 768 is not a multiple"),
]
REFUSED_VISION = [
    (["mask.num_patches=0"], r"mask\.num_patches is 0; it must be at least 1"),
    (["mask.min_block=0"], r"mask\.min_block is 0"),
    (["mask.max_block=0"], r"mask\.max_block is 0"),
    (["mask.min_aspect=0"], r"mask\.min_aspect is 0\.0; it must be above 0 and at most 1"),
    (["mask.min_aspect=1.5"], r"mask\.min_aspect is 1\.5"),
    (["frontend.patch_size=0"], r"frontend\.patch_size is 0"),
    (["frontend.num_channels=0"], r"frontend\.num_channels is 0"),
    (["data.num_workers=-1"], r"data\.num_workers is -1; it must lie between 0 and 256"),
    (["data.flip_prob=2"], r"data\.flip_prob is 2\.0; it must lie between 0 and 1"),
    (["data.color_jitter=-1"], r"data\.color_jitter is -1\.0"),
    (["data.max_bad_fraction=-1"], r"data\.max_bad_fraction is -1\.0"),
    (["frontend.image_size=230"], r"image_size 230 is not 2 or more whole patches of .* 16; use --set frontend\.image_size=224"),
    (["frontend.image_size=16"], r"image_size 16 is not 2 or more whole patches of .* 16; use --set frontend\.image_size=32"),
    (["frontend.image_size=0"], r"frontend\.image_size is 0; it must be at least 1"),
    (["data.heldout_fraction=-0.1"], r"data\.heldout_fraction is -0\.1; it must be at least 0 and below 1"),
    (["data.crop_scale=0,1"], r"data\.crop_scale is \(0\.0, 1\.0\); each must be above 0 and at most 1"),
    (["data.crop_scale=1,0.5"], r"data\.crop_scale is \(1\.0, 0\.5\), from large to small; use --set data\.crop_scale=0\.5,1\.0"),
    (
        ["mask.min_block=121"],
        r"mask\.min_block 121 is more than a block can have: mask\.num_patches 120, .*use --set mask\.min_block=120 or",
    ),
    (["mask.max_block=15"], r"mask\.min_block 16 .*mask\.max_block 15"),
    (["frontend.image_size=64", "mask.num_patches=15"], r"mask\.min_block 16 .* 9 in 4 x 4 patches .* --set mask\.min_block=9 or less"),
    (["mask.num_patches=196"], r"mask\.num_patches 196 of 196 patches leaves none to see; use --set mask\.num_patches=117 or fewer"),
]
ALLOWED = [
    ["teacher.average_top_k_layers=12"],
    ["teacher.average_top_k_layers=1"],
    ["model.head_layers=0", "model.block.drop_path=1", "model.block.layerdrop=1"],
    ["mask.prob=1"],
    ["mask.leave_unmasked_prob=0.6", "mask.random_token_prob=0.4", "mask.loss_on_all_selected=true"],
    ["optim.clip_norm=0", "optim.weight_decay=0", "loss.beta=0", "run.seed=0"],
    ["optim.schedule_steps=10000", "run.max_steps=10000"],
    ["optim.final_lr_scale=0.01", "run.max_steps=1000001"],
    ["mask.length=512"],
    ["optim.schedule=tri_stage", "optim.decay_steps=10", "optim.final_lr_scale=0.01"],
    ["optim.schedule=tri_stage", "optim.decay_steps=0", "run.max_steps=2000000"],
    ["optim.schedule=cosine", "optim.decay_steps=10", "optim.final_lr_scale=0"],
    ["model.ffn_hidden_size=3073", "run.max_steps=10"],
    ["guard.max_skipped_in_a_row=1", "guard.spike_deviations=1", "guard.spike_window=8", "checkpoint.keep_last=1"],
    ["teacher.ema_decay=1", "teacher.ema_end_decay=1", "teacher.ema_anneal_end_step=0"],
    ["model.init_std=none", "model.block.layer_scale=none"],
    ["model.init_std=0", "model.block.layer_scale=0", "frontend.embedding_init_std=0", "optim.warmup_steps=0", "run.eval_samples=1"],
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


CASES = [*((speech_base, *case) for case in REFUSED_SPEECH), *((vision_base, *case) for case in REFUSED_VISION)]


@pytest.mark.parametrize(("build", "changes", "complaint"), CASES, ids=[f"{case[0].__name__} {' '.join(case[1])}" for case in CASES])
def test_contradictions_of_other_modalities_are_refused_with_their_numbers(
    build: Callable[[], Recipe], changes: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        check_recipe(apply_overrides(build(), changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (speech_base, ["run.global_batch_size=8", "data.max_seconds=2"]),
        (speech_base, ["data.group_size=1", "run.global_batch_size=5", "data.num_workers=0", "data.max_bad_fraction=0"]),
        (speech_base, ["frontend.pos_conv_depth=1", "frontend.pos_conv_groups=768", "model.block.layerdrop=0"]),
        (vision_base, ["mask.num_patches=195", "frontend.relative_bias=none"]),
        (vision_base, ["frontend.image_size=32", "mask.num_patches=3", "mask.min_block=1", "data.flip_prob=1", "data.color_jitter=0"]),
    ],
)
def test_the_edge_of_what_other_modalities_allow_passes(build: Callable[[], Recipe], changes: list[str]) -> None:
    check_recipe(apply_overrides(build(), changes))


def test_every_limit_is_refused_somewhere_here() -> None:
    """Otherwise a limit without a case could be removed without a failing test."""
    for build, cases in ((text_base, REFUSED), (speech_base, REFUSED_SPEECH), (vision_base, REFUSED_VISION)):
        own, common = ({complaint.replace("\\", "").partition(" is ")[0] for _, complaint in some} for some in (cases, REFUSED))
        names = bounded_names(build())
        assert len(names) > 40 and len(set(names)) == len(names)
        missing = [name for name in names if name not in (own if name.startswith(("frontend.", "mask.", "data.")) else common)]
        assert missing == [], build


class Stubborn(Data2VecConfig):
    """An objective whose check refuses every recipe."""

    def check(self, recipe: Recipe) -> None:
        raise ConfigError(f"{recipe.name} is not for me")


def test_checks_of_objective_and_modality_are_called_and_an_unknown_modality_is_named() -> None:
    check_recipe(vision_tiny())
    with pytest.raises(ConfigError, match=r"^vision_tiny is not for me$"):
        check_recipe(replace(vision_tiny(), objective=Stubborn()))
    with pytest.raises(ConfigError, match=r"^recipe vision_tiny: modality 'smell' is not known to .* which has text, speech, vision$"):
        check_recipe(replace(vision_tiny(), modality="smell"))


def test_the_named_remedies_pass_the_check() -> None:
    for build, wrong, remedy in (
        (speech_base, "frontend.pos_conv_groups=36", "frontend.pos_conv_groups=12"),
        (speech_base, "run.global_batch_size=12", "data.group_size=4"),
        (vision_base, "frontend.image_size=230", "frontend.image_size=224"),
        (vision_base, "mask.num_patches=196", "mask.num_patches=117"),
    ):
        with pytest.raises(ConfigError, match=remedy):
            check_recipe(apply_overrides(build(), [wrong]))
        check_recipe(apply_overrides(build(), [wrong, remedy]))


def test_the_recipe_is_found_by_name_and_its_data_come_from_the_flag() -> None:
    recipe = resolve_recipe("vision_tiny", RECIPES["vision"], ["run.seed=3"], "/pictures")
    assert recipe == replace(vision_tiny(), run=replace(vision_tiny().run, seed=3), data=replace(vision_tiny().data, path="/pictures"))
    assert resolve_recipe("vision_tiny", RECIPES["vision"], ["data.path=/set"], None).data.path == "/set"
    assert resolve_recipe("vision_tiny", RECIPES["vision"], ["data.path=/set"], "/flag").data.path == "/flag"
    with pytest.raises(
        ConfigError, match=r"--recipe text_tiny: a recipe of modality text, for launch/pretrain_text\.py; here there are vision_tiny, "
    ):
        resolve_recipe("text_tiny", RECIPES["vision"], [], None)
    with pytest.raises(ConfigError, match=r"run\.max_steps is 0"):
        resolve_recipe("vision_tiny", RECIPES["vision"], ["run.max_steps=0"], None)


def test_a_function_that_returns_no_recipe_and_a_section_with_a_wrong_kind_are_refused() -> None:
    nothing: Any = lambda: None  # noqa: E731
    with pytest.raises(ConfigError, match="--recipe mine: returned NoneType, not a Recipe"):
        resolve_recipe("mine", {"mine": nothing}, [], None)

    @dataclass(frozen=True)
    class Lost(ObjectiveConfig):
        kind: ClassVar[str] = "nowhere:Lost"

    @dataclass(frozen=True)
    class Posing(ObjectiveConfig):
        kind: ClassVar[str] = "data2vec"

    with pytest.raises(ConfigError, match=r"recipe text_base: objective\.kind 'nowhere:Lost' cannot be imported"):
        check_recipe(replace(text_base(), objective=Lost()))
    with pytest.raises(ConfigError, match=r"objective\.kind 'data2vec' names another section than Posing"):
        check_recipe(replace(text_base(), objective=Posing()))
