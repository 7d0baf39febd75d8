"""--set as the user types it, and a recipe's way to config.json and back."""

import json
from dataclasses import fields, replace

import pytest

from recipes.config import Recipe, apply_overrides, recipe_from_dict, recipe_to_dict
from recipes.errors import ConfigError
from recipes.text import RECIPES, text_base, text_tiny


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("optim.lr=3e-4", "optim", "lr", 3e-4),
        ("optim.lr=1", "optim", "lr", 1.0),
        ("run.max_steps=12", "run", "max_steps", 12),
        ("run.max_steps = 12 ", "run", "max_steps", 12),
        ("run.deterministic=True", "run", "deterministic", True),
        ("run.deterministic=false", "run", "deterministic", False),
        ("run.wandb=offline", "run", "wandb", "offline"),
        ("optim.betas=0.9,0.95", "optim", "betas", (0.9, 0.95)),
        ("optim.betas=(0.9, 0.95)", "optim", "betas", (0.9, 0.95)),
        ("teacher.layer_norms=instance,layer", "teacher", "layer_norms", ("instance", "layer")),
        ("teacher.layer_norms=", "teacher", "layer_norms", ()),
        ("model.init_std=none", "model", "init_std", None),
        ("model.init_std=0.5", "model", "init_std", 0.5),
        ("data.tokenizer=null", "data", "tokenizer", None),
        ("data.path=/a=b", "data", "path", "/a=b"),
    ],
)
def test_a_value_gets_the_type_of_its_field(assignment: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(apply_overrides(text_base(), [assignment]), section), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("optim.lr", r"no '=' in it; write --set optim\.lr=3e-4"),
        ("optim.lr=fast", r"optim\.lr=fast: must be a number"),
        ("optim.lr=nan", r"optim\.lr=nan: must be a finite number"),
        ("loss.beta=inf", "must be a finite number"),
        ("run.max_steps=1e3", r"run\.max_steps=1e3: must be an integer"),
        ("run.max_steps=none", "must be an integer"),
        ("run.deterministic=yes", "must be true or false"),
        ("run.wandb=maybe", "must be one of off, offline, online"),
        ("teacher.layer_norms=layer,group", "group: must be one of batch, instance, layer"),
        ("optim.betas=0.9", "has 1 values, needs 2"),
        ("optim.betas=0.9,x", "must be a number"),
        ("optim.warmup=1", r"text_base has no such key; did you mean optim\.warmup_steps"),
        ("model.num_layer=3", r"did you mean model\.num_layers"),
        ("optimizer.lr=1", r"did you mean optim\.lr"),
        ("modell.num_layers=3", r"did you mean model\.num_layers"),
        ("xyzzy=1", "no such key; --dry-run prints every key"),
        ("name=other", "no such key"),
        ("model=3", "no such key"),
        ("model.=3", "no such key"),
        ("=3", "no such key"),
        ("model.num_block_parameters=3", "no such key"),
        ("run.seed.x=3", "no such key"),
    ],
)
def test_what_cannot_be_set_is_named_with_the_way_out(assignment: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        apply_overrides(text_base(), [assignment])
    assert "\n" not in str(caught.value)


def test_overrides_apply_in_order_and_change_nothing_else() -> None:
    base = text_base()
    changed = apply_overrides(base, ["optim.lr=1", "run.seed=7", "optim.lr=2"])
    assert changed == replace(base, optim=replace(base.optim, lr=2.0), run=replace(base.run, seed=7))
    assert base == text_base()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = apply_overrides(RECIPES[name](), ["data.path=/somewhere", "run.seed=5"])
    stored = json.loads(json.dumps(recipe_to_dict(recipe)))
    again = recipe_from_dict(text_tiny(), stored)  # any template of the modality: it gives classes, not values
    assert again == recipe
    assert type(again.optim.betas) is tuple
    assert set(stored) == {f.name for f in fields(Recipe)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": {"num_wheels": 4}}, r"model\.num_wheels, which this version"),
        ({"wheels": {"num": 4}}, "section wheels, which this version"),
    ],
)
def test_a_stored_recipe_of_another_version_is_refused_by_name(change: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        recipe_from_dict(text_tiny(), {**recipe_to_dict(text_tiny()), **change})
