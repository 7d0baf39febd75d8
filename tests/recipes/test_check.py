"""Each contradiction inside a recipe is found before anything is built, with the numbers in the message."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from recipes.catalog import RECIPES
from recipes.check import check_recipe, how_to_continue, resolve_recipe
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.masked_config import Data2VecConfig
from recipes.objective_config import ObjectiveConfig
from recipes.settings import apply_overrides, bounded_names, settable
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base, vision_tiny
from tests.recipes.refused_settings import REFUSED, REFUSED_SPEECH, REFUSED_TASK, REFUSED_VISION

OF_KIND = ("frontend.", "mask.", "data.")
"""Sections of which each recipe has another class."""
OF_TASK = ("data.", "objective.", "finetune.")
"""Sections of fine-tuning; the others are those of text_base."""
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
    ["optim.schedule=linear", "optim.layer_decay=1", "optim.head_lr_scale=100"],
    ["model.ffn_hidden_size=3073", "run.max_steps=10"],
    ["guard.max_skipped_in_a_row=1", "guard.spike_deviations=1", "guard.spike_window=8", "checkpoint.keep_last=1"],
    ["teacher.ema_decay=1", "teacher.ema_end_decay=1", "teacher.ema_anneal_end_step=0"],
    ["model.init_std=none", "model.block.layer_scale=none"],
    ["model.init_std=0", "model.block.layer_scale=0", "frontend.embedding_init_std=0", "optim.warmup_steps=0", "run.eval_samples=1"],
    ["run.profile_steps=10-12", "run.max_steps=12"],
    ["run.profile_steps=12", "run.max_steps=12"],
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


def text_task() -> Recipe:
    return text_recipe("classify", TEXT_TASKS["classify"], text_base())


TABLES = ((speech_base, REFUSED_SPEECH), (vision_base, REFUSED_VISION), (text_task, REFUSED_TASK))
CASES = [(build, *case) for build, table in TABLES for case in table]


@pytest.mark.parametrize(("build", "changes", "complaint"), CASES, ids=[f"{case[0].__name__} {' '.join(case[1])}" for case in CASES])
def test_contradictions_of_other_modalities_and_of_fine_tuning_are_refused_with_their_numbers(
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
    of_recipes = ((text_base, REFUSED), (speech_base, REFUSED_SPEECH), (vision_base, REFUSED_VISION), (text_task, REFUSED_TASK))
    for build, cases in of_recipes:
        own, common = ({complaint.replace("\\", "").partition(" is ")[0] for _, complaint in some} for some in (cases, REFUSED))
        names = [name for name in bounded_names(build()) if name in settable(build())]
        assert len(names) > 40 and len(set(names)) == len(names)
        missing = [name for name in names if name not in (own if name.startswith(OF_KIND) else common | own)]
        others = () if build is not text_task else tuple(name for name in names if not name.startswith(OF_TASK))
        assert [name for name in missing if name not in others] == [], build


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
        ConfigError, match=r"--recipe text_tiny: a recipe of modality text, for launch/\*_text\.py; here there are vision_tiny, "
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


def test_a_run_whose_length_follows_from_its_data_is_not_made_longer_by_max_steps() -> None:
    task = text_recipe("classify", TEXT_TASKS["classify"], text_base())
    task = replace(task, run=replace(task.run, max_steps=100))
    assert how_to_continue(task, 100) == "its length, finetune.epochs=10 of its data, is fixed; --set finetune.epochs=20 is for a new run"
    fixed = replace(task, finetune=replace(task.finetune, epochs=0.0))
    assert "--set run.max_steps=" in how_to_continue(fixed, 100)


def test_a_run_that_ended_early_goes_on_without_patience() -> None:
    task = text_recipe("classify", TEXT_TASKS["classify"], text_base())
    task = replace(task, run=replace(task.run, max_steps=100), eval=replace(task.eval, patience=4))
    hint = "it ended early, since accuracy was not better in 4 evaluations; --set eval.patience=0 --set run.accept_changes=eval.patience "
    assert how_to_continue(task, 60) == f"{hint}continues it to step 100"


def test_what_follows_from_the_data_is_open_until_the_recipe_says_it() -> None:
    task = text_recipe("classify", TEXT_TASKS["classify"], text_base())
    labels = "the labels, so the parameters of the head are not counted"
    updates = "the number of updates, those of 10 epochs, and the intervals of checkpoints"
    assert task.objective.undecided(task) == f"{labels}; {updates}"
    named = apply_overrides(task, ["objective.labels=a,b", "finetune.epochs=0"])
    assert named.objective.undecided(named) == "" and text_base().objective.undecided(text_base()) == ""
    mrpc = text_recipe("mrpc", TEXT_TASKS["mrpc"], text_base())
    assert mrpc.objective.undecided(mrpc) == updates
