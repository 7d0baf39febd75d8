"""Build the recipe that a command names, and find settings that contradict each other before anything is built.

Torch-free. Types are checked where a section is parsed (recipes/settings.py), and the ds_config in recipes/ds_config.py."""

from collections.abc import Callable, Mapping
from pathlib import Path

from recipes.catalog import find_recipe
from recipes.config import Recipe, RunConfig
from recipes.data.folder import resolve_data_path
from recipes.errors import ConfigError
from recipes.modalities.registry import source_of
from recipes.settings import apply_overrides, check_bounds, expand_homes, objective_config, with_values

ACCEPT_SCHEDULE = "--set run.accept_changes=optim.schedule_steps"


def resolve_recipe(name: str, recipes: Mapping[str, Callable[[], Recipe]], overrides: list[str], data: str | None) -> Recipe:
    """Return the recipe `name`, changed by `overrides` (texts section.key=value of --set) and `data` (--data, None: unchanged), and
    checked.
    Raises: ConfigError."""
    return changed_recipe(named_recipe(name, recipes), overrides, data)


def named_recipe(name: str, recipes: Mapping[str, Callable[[], Recipe]]) -> Recipe:
    """Return the recipe `name` without any override: one of `recipes`, or FILE.py:FUNCTION. Raises: ConfigError."""
    recipe = find_recipe(name, recipes)()
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"--recipe {name}: returned {type(recipe).__name__}, not a Recipe")
    return recipe


def changed_recipe(named: Recipe, overrides: list[str], data: str | None) -> Recipe:
    """Return the recipe `named`, changed by `overrides` (texts section.key=value of --set) and `data` (--data, None: unchanged), and
    checked.
    Raises: ConfigError."""
    recipe = apply_overrides(named, overrides)
    if data is not None:
        recipe = with_values(recipe, {"data.path": data})
    recipe = expand_homes(recipe)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Check that all settings have valid values and do not contradict each other. Raises: ConfigError with fact, numbers and remedy for
    the first fault."""
    source = source_of(recipe)
    check_network(recipe)
    kind, own = recipe.objective.kind, type(recipe.objective)
    if not issubclass(own, objective_config(kind, f"recipe {recipe.name}")):
        raise ConfigError(f"recipe {recipe.name}: objective.kind {kind!r} names another section than {own.__name__}")
    recipe.objective.check(recipe)
    check_optim(recipe)
    check_profile(recipe.run)
    source.check(recipe)


def check_modality(recipe: Recipe, modality: str) -> None:
    """Check that the recipe is of `modality`, which the command trains. Raises: ConfigError."""
    if recipe.modality != modality:
        raise ConfigError(f"--recipe {recipe.name} is of modality {recipe.modality}, not {modality}; name one of that")


def check_data(recipe: Recipe) -> str:
    """Check for a dry run, which prepares no data, that local data exist and can be read. Hub names are checked when training starts.

    Returns: a line with what will be read and what is left out; "" for a hub name or the shipped sample.
    Raises: ConfigError if data.path is a local path that does not exist or does not fit the recipe.
    """
    path = recipe.data.path
    if path is None:
        return ""
    if not (resolve_data_path(path) or Path(path).is_absolute() or path.startswith(".")):
        return f"no such file or folder; {path} will be looked up on the Hugging Face hub"
    return source_of(recipe).check_data(recipe, Path(path))


def check_network(recipe: Recipe) -> None:
    """Check all that a network needs which is only read and not trained: types, bounds and the encoder's sizes. Raises: ConfigError."""
    check_bounds(recipe)
    model = recipe.model
    if model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"model.hidden_size {model.hidden_size} is not a multiple of model.num_attention_heads {model.num_attention_heads}; change one"
        )


def check_optim(recipe: Recipe) -> None:
    """Check that the parts of the schedule fit into it, and that it does not end before the run. Raises: ConfigError."""
    optim, run = recipe.optim, recipe.run
    if optim.warmup_steps + optim.decay_steps > optim.schedule_steps:
        raise ConfigError(
            f"optim.warmup_steps {optim.warmup_steps} + optim.decay_steps {optim.decay_steps} exceed optim.schedule_steps "
            f"{optim.schedule_steps}; use --set optim.schedule_steps={optim.warmup_steps + optim.decay_steps} or shorten them"
        )
    if optim.schedule == "tri_stage" and optim.decay_steps and optim.final_lr_scale <= 0:
        raise ConfigError(
            f"optim.final_lr_scale {optim.final_lr_scale} with the exponential decay of tri_stage; it must be above 0 (published: 0.01)"
        )
    if run.max_steps > optim.schedule_steps and optim.last_lr == 0:
        raise ConfigError(
            f"run.max_steps {run.max_steps} is more than optim.schedule_steps {optim.schedule_steps}, and from there on the learning rate "
            f"is 0; use --set optim.schedule_steps={run.max_steps}, in a run that has begun with {ACCEPT_SCHEDULE} too"
        )


def check_profile(run: RunConfig) -> None:
    """Check that the run reaches the updates that are to be profiled. Raises: ConfigError if run.profile_steps cannot be read or goes
    beyond run.max_steps."""
    steps = run.profiled
    if steps and steps[-1] > run.max_steps:
        raise ConfigError(
            f"run.profile_steps {run.profile_steps} goes beyond run.max_steps {run.max_steps}; profile earlier updates, or use "
            f"--set run.max_steps={steps[-1]}"
        )


def how_to_continue(recipe: Recipe, step: int) -> str:
    """Return a hint for a run that has ended at update `step`: the settings with which it can be continued. If the learning rate is 0
    there, one of them is a longer schedule. A run whose length follows from its data and finetune.epochs cannot be made longer."""
    optim, patience, epochs = recipe.optim, recipe.eval.patience, recipe.finetune.epochs
    if step < recipe.run.max_steps:
        return (
            f"it ended early, since {recipe.eval.metric} was not better in {patience} evaluations; --set eval.patience=0 "
            f"--set run.accept_changes=eval.patience continues it to step {recipe.run.max_steps}"
        )
    if epochs:
        return f"its length, finetune.epochs={epochs:g} of its data, is fixed; --set finetune.epochs={2 * epochs:g} is for a new run"
    if optim.last_lr == 0 and step >= optim.schedule_steps:
        return (
            f"at learning rate 0, the end of optim.schedule_steps {optim.schedule_steps}; --set run.max_steps={2 * step} "
            f"--set optim.schedule_steps={2 * step} {ACCEPT_SCHEDULE} continues it at the rate that the longer schedule has there"
        )
    return "--set run.max_steps=N continues it" + (f", N up to optim.schedule_steps {optim.schedule_steps}" if optim.last_lr == 0 else "")
