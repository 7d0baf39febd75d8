"""The run that a directory holds: what it was made for, what a launch must agree with, and what changed in how it runs. Torch-free;
whose the directory is: recipes/run_dir. A run that never made an update binds nothing: metrics.jsonl, in which the first update always
has a row, is empty then, and there is no checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import MANIFEST, candidates, newest, read_manifest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.plan.size import num_parameters
from recipes.run_dir.run_dir import FREE_SECTIONS, FREE_TO_CHANGE, Changes, StoredConfig, read_config
from recipes.settings import differences, dotted, recipe_from_dict

NOT_HOW = (
    "deepspeed.train_batch_size",
    "deepspeed.gradient_clipping",
    "deepspeed.gradient_accumulation_steps",
    "deepspeed.steps_per_print",
)
"""What the ds_config repeats of the recipe, what follows from other numbers, and what is only printed."""


def read_begun(run_dir: Path) -> StoredConfig | None:
    """What stands in config.json, or in the newest checkpoint's manifest where there is no such file; None for a run without an update.

    Raises: ConfigError where config.json is damaged.
    """
    if not has_updates(run_dir):
        return None
    config = read_config(run_dir)
    if config is not None:
        return config
    folder = newest(run_dir)
    if folder is None:
        return None
    manifest = read_manifest(folder)
    world = {"world_size": manifest.tp_size * manifest.dp_size, "tp_size": manifest.tp_size}
    return StoredConfig(manifest.facts["recipe"], manifest.facts | world, f"{folder / MANIFEST}")


def has_updates(run_dir: Path) -> bool:
    """Whether any update was made in this directory that is still to be seen."""
    metrics = run_dir / "metrics.jsonl"
    return bool(candidates(run_dir)) or (metrics.exists() and metrics.stat().st_size > 0)


def check_same_recipe(run_dir: Path, recipe: Recipe) -> Changes:
    """In what `recipe` differs from the one that the directory's run began with, where all of it is named in run.accept_changes.

    Raises: ConfigError naming the fields that differ and are not, or what cannot be read of the run's own.
    """
    config = read_begun(run_dir)
    if config is None:
        return {}
    if config.recipe["name"] != recipe.name:
        raise ConfigError(f"--run-dir {run_dir} holds a run of recipe {config.recipe['name']}, not {recipe.name}; name another --run-dir")
    changes = differences(config.recipe, recipe, config.writer)
    changes = {key: values for key, values in changes.items() if key not in FREE_TO_CHANGE and not key.startswith(FREE_SECTIONS)}
    other = [key for key in changes if key == "modality" or key.endswith(".kind")]
    if other:
        before, now = changes[other[0]]
        raise ConfigError(f"--run-dir {run_dir} holds a run with {other[0]} {before}, now it is {now}; name another --run-dir")
    _check_same_architecture(run_dir, config, recipe, changes)
    refused = [key for key in changes if key not in recipe.run.accept_changes]
    if refused:
        raise ConfigError(
            f"--run-dir {run_dir} was started with other settings ({_shown(changes, refused)}); undo them, accept them with "
            f"--set {acceptance(recipe, *changes)}, or name another --run-dir"
        )
    return changes


def _check_same_architecture(run_dir: Path, config: StoredConfig, recipe: Recipe, changes: Changes) -> None:
    """What has another number of parameters cannot go on with the weights of the run, whatever is accepted."""
    kinds = {name: (type(value),) for name, value in vars(recipe).items() if is_dataclass(value)}
    before, now = num_parameters(recipe_from_dict(config.recipe, kinds, config.writer)), num_parameters(recipe)
    if before != now:
        raise ConfigError(
            f"--run-dir {run_dir} was started with other settings ({_shown(changes, list(changes))}), its model has {before:,} "
            f"parameters and this one {now:,}; undo them or name another --run-dir"
        )


def _shown(changes: Changes, names: list[str]) -> str:
    return f"{len(names)} differ: " + ", ".join(f"{key} {changes[key][0]} -> {changes[key][1]}" for key in names[:3])


def acceptance(recipe: Recipe, *names: str) -> str:
    """The setting that accepts these changes beside those that are accepted already."""
    return f"run.accept_changes={','.join(sorted({*names, *recipe.run.accept_changes}))}"


def how_it_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """What differs in how the run runs, between two contents of config.json. What the earlier one does not tell is not compared, but
    for keys of the ds_config: there absent is a value."""
    old, new = _how(before), _how(now)
    names = [name for name in {**old, **new} if name.startswith("deepspeed.") or (name in old and name in new)]
    return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)} if "deepspeed" in before else {}


def _how(content: Mapping[str, Any]) -> dict[str, Any]:
    deepspeed = content.get("deepspeed", {})
    precision = next((name for name in ("bf16", "fp16") if deepspeed.get(name, {}).get("enabled", False)), "fp32")
    how = {"precision": precision} | {key: content[key] for key in ("world_size", "tp_size", "release") if key in content}
    how |= dotted({"versions": content.get("versions", {}), "deepspeed": deepspeed})
    return {name: value for name, value in how.items() if name not in (*NOT_HOW, f"deepspeed.{precision}.enabled")}


@dataclass(frozen=True)
class DataFacts:
    """Of the data that a launch reads, for config.json and every manifest."""

    data_fingerprint: str
    data_contents: str | None = None
    """Of what the source files hold, which the fingerprint of files leaves out; None where it was not recorded."""
    kept: dict[str, str] | None = None
    """Files that belong to the run for ever -> their SHA-256; None where it was not recorded."""


def check_same_data(run_dir: Path, recipe: Recipe, now: DataFacts) -> Changes:
    """The change of data, where run.accept_changes names data.path.

    Raises: ConfigError where they are not those of the run and nothing accepts that.
    """
    config = read_begun(run_dir)
    changes: Changes = {}
    for key in ("data_fingerprint", "data_contents"):
        before, value = (config.content.get(key) if config else None), getattr(now, key)
        if None not in (before, value) and before != value:
            changes[key] = [before, value]
    if not changes or config is None:
        return {}
    if "data.path" in recipe.run.accept_changes:
        return {"data.path": [config.recipe["data"]["path"], recipe.data.path], **changes}
    key, (before, value) = next(iter(changes.items()))
    raise ConfigError(
        f"--run-dir {run_dir}: the data are not those of the run ({key.removeprefix('data_')} {before[:12]} -> {value[:12]}); point "
        f"--data at those, accept the others with --set {acceptance(recipe, 'data.path')}, or name another --run-dir"
    )
