"""Checks made when a run resumes: recipe and data must be those of the run in the run dir, except for accepted changes. Torch-free.
Ownership of the directory is checked in recipes/run_dir.

A run without any update is not compared with anything. Then there is no checkpoint, and metrics.jsonl is empty, since the first update
always writes a row."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import MANIFEST, candidates, newest, read_manifest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.registry import modality_of
from recipes.plan.size import num_parameters
from recipes.run_dir.run_dir import FREE_SECTIONS, FREE_TO_CHANGE, Changes, StoredConfig, read_config
from recipes.settings import differences, dotted, recipe_from_dict
from recipes.start_config import START_FROM

NOT_COMPARED = (
    "deepspeed.train_batch_size",
    "deepspeed.gradient_clipping",
    "deepspeed.gradient_accumulation_steps",
    "deepspeed.steps_per_print",
)
"""Keys of the ds_config that do not count as a change of execution: they repeat the recipe, are derived from other numbers, or change
only what is printed."""


def read_started_run(run_dir: Path) -> StoredConfig | None:
    """Return the stored configuration of the run: from config.json, or from the newest checkpoint's manifest if that file is missing.
    None for a run without an update.

    Raises: ConfigError if config.json is damaged.
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
    return StoredConfig(manifest.metadata["recipe"], manifest.metadata | world, f"{folder / MANIFEST}")


def has_updates(run_dir: Path) -> bool:
    """True if the directory has a checkpoint or a row in metrics.jsonl."""
    metrics = run_dir / "metrics.jsonl"
    return bool(candidates(run_dir)) or (metrics.exists() and metrics.stat().st_size > 0)


def check_same_recipe(run_dir: Path, recipe: Recipe) -> Changes:
    """Check `recipe` against the recipe of the run in `run_dir`. Return the differences, which run.accept_changes accepts; {} if no run
    has begun. Settings that may always change, such as data.num_workers, are not compared.

    Raises: ConfigError naming the fields that differ and are not accepted, or the part of the run's recipe that cannot be read.
    """
    config = read_started_run(run_dir)
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
    _check_same_start(run_dir, config, recipe)
    refused = [key for key in changes if key not in recipe.run.accept_changes]
    if refused:
        raise ConfigError(
            f"--run-dir {run_dir} was started with other settings ({_shown(changes, refused)}); undo them, accept them with "
            f"--set {accept_setting(recipe, *changes)}, or name another --run-dir"
        )
    return changes


def check_same_path(run_dir: Path, recipe: Recipe) -> None:
    """Check, for a finished run, whose data are not opened any more, that data.path is still that of the run or that the run's data have
    moved away. Raises: ConfigError if other data are named."""
    config = read_started_run(run_dir)
    before, now = (config.recipe["data"]["path"] if config else None), recipe.data.path
    if before is None or now is None or Path(before).resolve() == Path(now).resolve() or not Path(before).exists():
        return
    raise ConfigError(f"--run-dir {run_dir} holds a finished run on data.path {before}, not {now}; name another --run-dir")


def _check_same_architecture(run_dir: Path, config: StoredConfig, recipe: Recipe, changes: Changes) -> None:
    """Check that the model of `recipe` has as many parameters as that of the run. `config`: the run's stored settings.

    Raises: ConfigError naming `changes` if the numbers differ: the run's weights do not fit then, and run.accept_changes cannot help.
    """
    before, now = num_parameters(stored_recipe(config, recipe)), num_parameters(recipe)
    if before != now:
        raise ConfigError(
            f"--run-dir {run_dir} was started with other settings ({_shown(changes, list(changes))}), its model has {before:,} "
            f"parameters and this one {now:,}; undo them or name another --run-dir"
        )


def stored_recipe(config: StoredConfig, recipe: Recipe) -> Recipe:
    """Return the stored recipe, whose sections have the kinds of `recipe` or others of its modality. Raises: ConfigError if it cannot be
    read."""
    others = modality_of(recipe.modality, f"recipe {recipe.name}").kinds
    kinds = {name: (type(value), *others.get(name, ())) for name, value in vars(recipe).items() if is_dataclass(value)}
    return recipe_from_dict(config.recipe, kinds, config.writer)


def _check_same_start(run_dir: Path, config: StoredConfig, recipe: Recipe) -> None:
    """Check that the recipe names no other start than the one with which the run began. Naming none is right, since a run that has begun
    does not read it. Raises: ConfigError if it names another one."""
    now, before = recipe.start, stored_recipe(config, recipe).start
    if now.start_from is None:
        return
    began = f"--run-dir {run_dir} holds a run that began with"
    if before.start_from is None:
        weights = "imported" if "imported" in config.content else "random"
        raise ConfigError(f"{began} {weights} weights, not with {START_FROM} {now.start_from}; leave it out, or name another --run-dir")
    origin = Path(config.content.get("start_from", {}).get("path", before.start_from))
    places = {Path(before.start_from).resolve(), origin.resolve(), origin.parent.parent.resolve()}
    if now.start_from != before.start_from and Path(now.start_from).resolve() not in places:
        raise ConfigError(
            f"{began} {START_FROM} {before.start_from} ({origin}), not {now.start_from}; leave it out, or name another --run-dir"
        )
    if now.is_restarted != before.is_restarted:
        raise ConfigError(f"{began} {before.follower}, not {now.follower}; leave it out, or name another --run-dir")


def _shown(changes: Changes, names: list[str]) -> str:
    return f"{len(names)} differ: " + ", ".join(f"{key} {changes[key][0]} -> {changes[key][1]}" for key in names[:3])


def accept_setting(recipe: Recipe, *names: str) -> str:
    """Return the assignment `run.accept_changes=a,b` that accepts the changes `names` and those that the recipe accepts already."""
    return f"run.accept_changes={','.join(sorted({*names, *recipe.run.accept_changes}))}"


def execution_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Return what differs in execution (ranks, precision, versions, ds_config) between two contents of config.json: name -> [before, now].

    A value missing from the earlier content is not compared. Keys of the ds_config are an exception: there, absent is a value too. Returns
    {} if the earlier content has no ds_config at all.
    """
    old, new = _execution(before), _execution(now)
    names = [name for name in {**old, **new} if name.startswith("deepspeed.") or (name in old and name in new)]
    return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)} if "deepspeed" in before else {}


def _execution(content: Mapping[str, Any]) -> dict[str, Any]:
    deepspeed = content.get("deepspeed", {})
    precision = next((name for name in ("bf16", "fp16") if deepspeed.get(name, {}).get("enabled", False)), "fp32")
    kept = ("world_size", "tp_size", "num_replicas", "products", "release")
    values = {"precision": precision} | {key: content[key] for key in kept if key in content}
    values |= dotted({"versions": content.get("versions", {}), "deepspeed": deepspeed})
    return {name: value for name, value in values.items() if name not in (*NOT_COMPARED, f"deepspeed.{precision}.enabled")}


@dataclass(frozen=True)
class DataIdentity:
    """Hashes of the data that a launch reads. They are written to config.json and to every manifest."""

    data_fingerprint: str
    data_contents: str | None = None
    """Hash of what the source files contain. The fingerprint of data in files does not cover this. None if it was not recorded."""
    kept: dict[str, str] | None = None
    """Files that belong to the run permanently, such as the tokenizer -> their SHA-256. None if it was not recorded."""
    encoding: int | None = None
    """Version of the rules by which text became tokens, which the run keeps. None if there is no text, or it was not recorded."""


def check_same_data(run_dir: Path, recipe: Recipe, now: DataIdentity) -> Changes:
    """Compare the data of this launch (`now`) with those of the run. Return what differs: name -> [before, now]; {} if nothing does.

    Raises: ConfigError if something differs and run.accept_changes does not name data.path.
    """
    config = read_started_run(run_dir)
    changes: Changes = {}
    for key in ("data_fingerprint", "data_contents"):
        before, value = (config.content.get(key) if config else None), getattr(now, key)
        if None not in (before, value) and before != value:
            changes[key] = [before, value]
    if not changes or config is None:
        return {}
    if "data.path" in recipe.run.accept_changes:
        before, value = config.recipe["data"]["path"], recipe.data.path
        return {"data.path": [before, value], **changes} if before != value else changes
    key, (before, value) = next(iter(changes.items()))
    raise ConfigError(
        f"--run-dir {run_dir}: the data are not those of the run ({key.removeprefix('data_')} {before[:12]} -> {value[:12]}); point "
        f"--data at those, accept the others with --set {accept_setting(recipe, 'data.path')}, or name another --run-dir"
    )
