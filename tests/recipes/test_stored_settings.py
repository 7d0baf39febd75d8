"""A recipe stored in config.json and read back: by this release, from an older or newer one, and from a damaged file."""

import json
import re
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import pytest

from model.bounds import Absent, at_least
from model.config import BlockConfig
from recipes.catalog import RECIPES
from recipes.config import OptimConfig, Recipe
from recipes.errors import ConfigError
from recipes.masked_config import Data2VecConfig
from recipes.modalities.registry import MODALITIES
from recipes.objective_config import ObjectiveConfig
from recipes.settings import REQUIRED_SECTIONS, apply_overrides, differences, objective_config, recipe_from_dict, recipe_to_dict
from recipes.speech import speech_tiny
from recipes.text import text_base, text_tiny
from recipes.vision import vision_base

TEXT = MODALITIES["text"].kinds
GONE = ...


def stored(recipe: Recipe, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the recipe as stored in config.json, with changes by dotted names. The value GONE removes a name."""
    values = json.loads(json.dumps(recipe_to_dict(recipe)))
    for name, value in (changes or {}).items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        if value is GONE:
            del place[key]
        else:
            place[key] = value
    return values


@pytest.mark.parametrize(("modality", "name"), [(modality, name) for modality, recipes in RECIPES.items() for name in recipes])
def test_a_recipe_survives_json(modality: str, name: str) -> None:
    recipe = apply_overrides(RECIPES[modality][name](), ["data.path=/somewhere", "run.seed=5", "model.block.drop_path=0.3"])
    values = stored(recipe)
    again = recipe_from_dict(values, MODALITIES[modality].kinds)
    assert again == recipe and again.model.block.drop_path == 0.3
    assert type(again.optim.betas) is tuple
    assert set(values) == {f.name for f in fields(Recipe)}
    assert differences(values, recipe) == {}


def test_a_section_that_may_have_several_classes_stores_its_kind() -> None:
    kinds = {name: section.get("kind", GONE) for name, section in stored(speech_tiny()).items() if isinstance(section, dict)}
    named = {"frontend": "speech", "mask": "span", "data": "speech", "objective": "data2vec"}
    assert {name: kind for name, kind in kinds.items() if kind is not GONE} == named


def test_a_key_that_is_missing_has_the_default_of_its_class_and_not_that_of_a_recipe() -> None:
    assert text_tiny().model.num_layers == 3
    gone = {"model.num_layers": GONE, "model.block": GONE, "optim.lr": GONE, "mask.prob": GONE, "teacher.average_top_k_layers": GONE}
    recipe = recipe_from_dict(stored(text_tiny(), gone), TEXT)
    assert (recipe.model.num_layers, recipe.model.block, recipe.optim.lr, recipe.mask.prob) == (12, BlockConfig(), 2e-4, 0.35)  # type: ignore[attr-defined]
    assert recipe.teacher.average_top_k_layers == 10 and recipe.model.hidden_size == 128, "the rest is what it was"
    block = recipe_from_dict(stored(vision_base(), {"model.block.layer_scale": GONE}), MODALITIES["vision"].kinds).model.block
    assert block == replace(vision_base().model.block, layer_scale=None)


def test_settings_added_later_have_their_absent_value_in_an_older_run() -> None:
    without = {"frontend.kind": GONE, "mask.kind": GONE, "data.kind": GONE, "objective": GONE}
    assert recipe_from_dict(stored(text_tiny(), without), TEXT) == text_tiny(), "the first of its kinds, and data2vec"
    assert differences(stored(text_tiny(), without), text_tiny()) == {}


@dataclass(frozen=True)
class Later(OptimConfig):
    """A section with fields that older runs do not have."""

    wheels: Annotated[int, Absent(3), at_least(1)] = 4
    colour: Annotated[str | None, Absent(None)] = "red"
    plain: float = 0.5


def test_a_field_may_define_its_value_for_runs_without_it() -> None:
    kinds = {**TEXT, "optim": (Later,)}
    old = recipe_from_dict(stored(text_tiny()), kinds).optim
    assert isinstance(old, Later) and (old.wheels, old.colour, old.plain) == (3, None, 0.5)
    assert old.lr == text_tiny().optim.lr != OptimConfig().lr
    new = recipe_from_dict(stored(text_tiny(), {"optim.wheels": 7, "optim.colour": "blue"}), kinds).optim
    assert isinstance(new, Later) and (new.wheels, new.colour) == (7, "blue"), "what is there is read"
    recipe = replace(text_tiny(), optim=Later(lr=text_tiny().optim.lr, schedule_steps=2_000, warmup_steps=100))
    assert differences(stored(text_tiny()), recipe) == {"optim.colour": [None, "red"], "optim.wheels": [3, 4]}


class Smoothing:
    """An objective from outside of this repository."""

    @dataclass(frozen=True)
    class Config(ObjectiveConfig):
        """Its section."""

        kind: ClassVar[str] = "tests.recipes.test_stored_settings:Smoothing"
        share: Annotated[float, at_least(0)] = 0.1


def test_an_objective_from_outside_of_the_repository_is_read_by_its_name() -> None:
    recipe = replace(text_tiny(), objective=Smoothing.Config(share=0.3))
    assert recipe_from_dict(stored(recipe), TEXT) == recipe
    assert differences(stored(recipe), replace(recipe, objective=Smoothing.Config())) == {"objective.share": [0.3, 0.1]}
    assert objective_config(Smoothing.Config.kind) is Smoothing.Config and objective_config("data2vec") is Data2VecConfig


NEWER = "which this release does not know; use the release that wrote it"
DAMAGED = "which is no value of that setting; restore the file from a copy"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model.num_wheels": 4}, f"has the key model.num_wheels, {NEWER}"),
    ({"model.block.num_wheels": 4}, f"has the key model.block.num_wheels, {NEWER}"),
    ({"wheels": {"num": 4}}, f"has a section wheels, {NEWER}"),
    ({"wheels": 4}, f"has a section wheels, {NEWER}"),
    ({"mask.kind": "petals"}, "mask.kind 'petals' is unknown for its modality, which has token; restore the file or use the release"),
    ({"mask.kind": "span"}, "mask.kind 'span' is unknown for its modality, which has token"),
    ({"mask.kind": 3}, "mask.kind 3 is unknown for its modality, which has token"),
    ({"model.kind": "big"}, "model.kind 'big' is unknown for its modality"),
    (
        {"objective.kind": "guess"},
        "objective.kind 'guess' is unknown; it is one of data2vec, mlm, pixels, classify, regress, ctc, or module:Name",
    ),
    ({"objective.kind": "nowhere_at_all:Guess"}, "objective.kind 'nowhere_at_all:Guess' cannot be imported (No module named"),
    ({"objective.kind": "json:dumps"}, "objective.kind 'json:dumps' is no objective: it has no Config, which is its section of the recipe"),
    ({"objective.wheels": 3}, f"has the key objective.wheels, {NEWER}"),
    *(({name: GONE}, f"has no section {name}, which every run has; restore the file from a copy") for name in sorted(REQUIRED_SECTIONS)),
    ({"name": GONE}, "has no name, which every run has; restore the file from a copy"),
    ({"modality": GONE}, "has no modality, which every run has; restore the file from a copy"),
    ({"modality": ["text"]}, f"modality is ['text'], {DAMAGED}"),
    ({"mask.prob": float("nan")}, "mask.prob is nan, which is no value of that setting"),
    ({"optim.lr": "fast"}, f"optim.lr is 'fast', {DAMAGED}"),
    ({"optim.lr": "0.1"}, f"optim.lr is '0.1', {DAMAGED}"),
    ({"optim.lr": None}, f"optim.lr is None, {DAMAGED}"),
    ({"optim.lr": True}, f"optim.lr is True, {DAMAGED}"),
    ({"run.seed": True}, f"run.seed is True, {DAMAGED}"),
    ({"run.seed": 1.5}, f"run.seed is 1.5, {DAMAGED}"),
    ({"run.seed": 1.0}, f"run.seed is 1.0, {DAMAGED}"),
    ({"run.seed": "1"}, f"run.seed is '1', {DAMAGED}"),
    ({"run.deterministic": 1}, f"run.deterministic is 1, {DAMAGED}"),
    ({"run.wandb": "sometimes"}, f"run.wandb is 'sometimes', {DAMAGED}"),
    ({"run.wandb": ["off"]}, f"run.wandb is ['off'], {DAMAGED}"),
    ({"data.text_column": None}, f"data.text_column is None, {DAMAGED}"),
    ({"data.path": 3}, f"data.path is 3, {DAMAGED}"),
    ({"optim.betas": [0.9]}, f"optim.betas is [0.9], {DAMAGED}"),
    ({"optim.betas": 0.9}, f"optim.betas is 0.9, {DAMAGED}"),
    ({"optim.betas": [0.9, "a"]}, f"optim.betas is 'a', {DAMAGED}"),
    ({"teacher.layer_norms": ["layer", "loud"]}, f"teacher.layer_norms is 'loud', {DAMAGED}"),
    ({"teacher.layer_norms": "layer"}, f"teacher.layer_norms is 'layer', {DAMAGED}"),
    ({"model.num_layers": {"kind": 3}}, f"model.num_layers is {{'kind': 3}}, {DAMAGED}"),
    ({"model": [1, 2]}, "model is [1, 2], must be a section of keys; restore the file from a copy"),
    ({"model.block": 3}, "model.block is 3, must be a section of keys; restore the file from a copy"),
    ({"objective": "data2vec"}, "objective is 'data2vec', must be a section of keys; restore the file from a copy"),
    ({"optim": None}, "optim is None, must be a section of keys; restore the file from a copy"),
]


@pytest.mark.parametrize(("changes", "complaint"), REFUSED, ids=[str(changes) for changes, _ in REFUSED])
def test_a_file_that_cannot_be_read_is_a_one_line_error_that_begins_with_the_writer(changes: dict[str, Any], complaint: str) -> None:
    values, writer = stored(text_tiny(), changes), "config.json of release 9.9"
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{writer}: {complaint}')}") as caught:
        recipe_from_dict(values, TEXT, writer)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^config\.json: "):
        recipe_from_dict(values, TEXT)


def test_bounds_that_came_after_a_run_do_not_prevent_that_it_is_read_and_compared() -> None:
    """guard.min_target_std had no bounds in release 0.4.0, and -1 switched the check off."""
    values = stored(text_tiny(), {"guard.min_target_std": -1.0})
    assert recipe_from_dict(values, TEXT).guard.min_target_std == -1.0
    assert differences(values, text_tiny()) == {"guard.min_target_std": [-1.0, text_tiny().guard.min_target_std]}


def test_a_path_below_home_is_the_same_path_expanded_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release 0.4.0 stored ~ as the user gave it."""
    monkeypatch.setenv("HOME", "/home/me")
    short, full = (apply_overrides(text_tiny(), [f"data.tokenizer={home}/tok.model"]) for home in ("~", "/home/me"))
    assert differences(stored(short), full) == differences(stored(full), short) == differences(stored(short), short) == {}
    assert differences(stored(short), text_tiny()) == {"data.tokenizer": ["/home/me/tok.model", None]}


def test_numbers_of_json_have_the_types_of_their_fields() -> None:
    values = {"optim.lr": 1, "optim.betas": [0, 0.5], "model.init_std": None, "loss.scale": 2, "teacher.layer_norms": [], "data.path": None}
    recipe = recipe_from_dict(stored(text_base(), values), TEXT)
    found = (recipe.optim.lr, *recipe.optim.betas, recipe.loss.scale)
    assert found == (1.0, 0.0, 0.5, 2.0) and {type(number) for number in found} == {float}
    assert recipe.model.init_std is None and recipe.teacher.layer_norms == () and recipe.data.path is None


def test_reading_does_not_change_the_stored_values() -> None:
    values = stored(text_tiny(), {"model.num_layers": GONE, "objective": GONE})
    before = deepcopy(values)
    recipe_from_dict(values, TEXT)
    differences(values, text_base())
    assert values == before


def test_settings_that_differ_are_named_with_both_values() -> None:
    changes = ["optim.lr=0.5", "model.block.drop_path=0.25", "teacher.layer_norms=layer,instance", "data.path=/other"]
    assert differences(stored(text_base()), apply_overrides(text_base(), changes)) == {
        "data.path": [None, "/other"],
        "model.block.drop_path": [0.0, 0.25],
        "optim.lr": [2e-4, 0.5],
        "teacher.layer_norms": [["layer"], ["layer", "instance"]],
    }
    assert differences(stored(text_base()), replace(text_base(), name="mine")) == {"name": ["text_base", "mine"]}


def test_a_setting_that_is_not_stored_differs_only_if_the_recipe_has_no_default_there() -> None:
    values = stored(text_base(), {"model.num_layers": GONE, "model.block": GONE, "objective": GONE})
    assert differences(values, text_base()) == {}
    changed = apply_overrides(text_base(), ["model.num_layers=13", "model.block.layerdrop=0.5"])
    assert differences(values, changed) == {"model.block.layerdrop": [0.0, 0.5], "model.num_layers": [12, 13]}


def test_a_section_of_another_kind_is_a_difference_named_by_its_kind() -> None:
    recipe = replace(text_tiny(), mask=speech_tiny().mask)
    found = differences(stored(text_tiny()), recipe)
    assert found["mask.kind"] == ["token", "span"] and found["mask.random_token_prob"] == [0.0, None]
    assert found["mask.min_masks"] == [None, recipe.mask.min_masks]  # type: ignore[attr-defined]
    assert {name.partition(".")[0] for name in found} == {"mask"}
    assert differences(stored(replace(text_tiny(), objective=Smoothing.Config())), text_tiny()) == {
        "objective.kind": [Smoothing.Config.kind, "data2vec"],
        "objective.share": [0.1, None],
    }


@pytest.mark.parametrize(
    "changes", [{"wheels": {}}, {"model.num_wheels": 4}, {"model": [1]}, {"mask": [1]}, {"optim": GONE}, {"optim.lr": "1"}]
)
def test_comparing_with_a_stored_recipe_that_cannot_be_read_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^who wrote it: ") as caught:
        differences(stored(text_tiny(), changes), text_tiny(), "who wrote it")
    assert "\n" not in str(caught.value)
