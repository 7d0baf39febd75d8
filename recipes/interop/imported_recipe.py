"""The recipe of an imported run: a named recipe with the front-end and encoder of the source; and the command that trains on with it. No
files."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import check_modality, check_network, check_recipe, named_recipe
from recipes.config import Recipe
from recipes.data.tokenizer import is_lowercasing
from recipes.errors import ConfigError
from recipes.interop.hf_format import format_of_modality
from recipes.interop.imported_tokenizer import ImportedTokenizer
from recipes.settings import differences, recipe_to_dict
from recipes.values import text_of_value


def template_of(modality: str, name: str | None) -> Recipe:
    """Return the recipe that gives an imported run all that its source does not say: the recipe `name`, or the modality's Base. Raises:
    ConfigError if there is no such recipe of this modality."""
    template = named_recipe(name or f"{modality}_base", RECIPES[modality])
    check_modality(template, modality)
    return template


def described_by(config: Mapping[str, Any], source: str, recipe_of: Callable[[], Recipe]) -> Recipe:
    """Return what `recipe_of` makes of another project's configuration. `config` is that configuration.

    Raises: ConfigError, beginning with `source`, if a setting is missing, has the wrong type, or cannot be expressed.
    """
    try:
        return recipe_of()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except KeyError as error:
        raise ConfigError(f"{source}: its configuration ({len(config)} settings) lacks {error.args[0]}; add it") from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"{source}: its configuration has a setting of a wrong type ({error}); copy it again") from None


def readable(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe, whose network is only read. Its masks and data need not fit. Raises: ConfigError, beginning with `source`, if it
    describes no network."""
    try:
        check_network(recipe)
    except ConfigError as error:
        raise ConfigError(f"{source}: as a recipe of this project, {error}") from None
    return recipe


def fitted(recipe: Recipe, template: Recipe, tokenizer: ImportedTokenizer, source: str) -> Recipe:
    """Return the recipe with data and masks that fit its front-end and its tokenizer: text no longer than its positions and in the
    tokenizer's case, no more masked patches than in proportion to the template's.

    Raises: ConfigError, beginning with `source`, if it is no valid recipe even so.
    """
    fit = format_of_modality(recipe.modality).fit
    recipe = fit(recipe, template) if fit else recipe
    if tokenizer.file:
        recipe = _with_case(recipe, is_lowercasing(tokenizer.file))
    try:
        check_recipe(recipe)
    except ConfigError as error:
        raise ConfigError(f"{source}: as a recipe of this project, {error}") from None
    return recipe


def _with_case(recipe: Any, lowercase: bool) -> Recipe:
    return replace(recipe, data=replace(recipe.data, lowercase=lowercase))


def next_command(recipe: Recipe, template: Recipe, named: str, run_dir: Path, extra: Mapping[str, str]) -> str:
    """Return the command that trains an imported run on, with a --set for each setting that differs from the recipe `template`, which
    --recipe `named` gives. `extra`: further settings -> values."""
    changes = {name: text_of_value(now) for name, (_, now) in differences(recipe_to_dict(template), recipe).items()}
    sets = [f"--set {shlex.quote(f'{name}={text}')}" for name, text in {**changes, **extra}.items()]
    words = ["deepspeed", f"launch/pretrain_{recipe.modality}.py", "--recipe", shlex.quote(named), "--run-dir", shlex.quote(str(run_dir))]
    return " ".join([*words, "--data", f"YOUR_{recipe.modality.upper()}", *sets])
