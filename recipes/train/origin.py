"""The checkpoint with whose weights a new run begins (section `start` of the recipe): found, compared with the recipe, and recorded.
Torch-free, so that a dry run checks it. The tensors are loaded in recipes/checkpoint/restore.py."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.inspect import explaining_damage, find_checkpoint, reading
from recipes.checkpoint.layout import MANIFEST, Manifest, candidates, check_files, read_manifest
from recipes.config import Recipe
from recipes.data.shards import KEPT, hash_files, is_prepared, kept_files
from recipes.errors import ConfigError
from recipes.masked_config import Data2VecConfig
from recipes.plan.size import num_parameters, num_trunk_parameters
from recipes.run_dir.run_dir import StoredConfig
from recipes.settings import apply_overrides, differences
from recipes.start_config import START_FROM, StartConfig
from recipes.train.resume import accept_setting, read_started_run, stored_recipe
from recipes.values import text_of_value

WITHOUT_EFFECT = frozenset(
    (
        *("hidden_dropout", "attention_dropout", "activation_dropout", "drop_path", "layerdrop"),
        *("init_std", "head_init", "truncated_init", "depth_scaled_init", "embedding_init_std"),
    )
)
"""Last names of settings of model and frontend that do not change what given weights compute: noise of the training and first values."""
MAX_NAMED = 3


@dataclass(frozen=True)
class Origin:
    """The checkpoint with whose weights a run begins. config.json, each manifest and the event `start` keep it under `start_from`."""

    path: str
    """Absolute path of the checkpoint's folder."""
    step: int
    recipe: str
    """Name of the recipe that wrote it."""
    sha256: str
    """SHA-256 of its manifest.json, which has the hashes of all files."""
    kept: dict[str, str]
    """Files that its weights depend on, such as the tokenizer -> absolute path. KEPT has the setting of each."""

    @property
    def where(self) -> str:
        """Path, step and recipe, for the terminal."""
        return f"{self.path} (step {self.step} of {self.recipe})"

    def check_unchanged(self) -> None:
        """Check that the checkpoint is still the one that was found at first. Raises: ConfigError if it is gone or is another one."""
        try:
            if hash_files([Path(self.path) / MANIFEST]) == self.sha256:
                return
            fact = "is not the checkpoint any more with which this run began"
        except OSError as error:
            fact = f"cannot be read ({error.strerror or error})"
        raise ConfigError(
            f"{START_FROM} {self.path}: {fact}, and there is no newer state of this run; put it back, or begin a new run from another "
            "checkpoint with another --run-dir"
        )

    def own_kept(self, run_dir: Path) -> dict[str, Path]:
        """Return the files of `kept` as name -> path, those of the run that began here if `run_dir` has its own copies."""
        places = {name: (run_dir / name, Path(path)) for name, path in self.kept.items()}
        return {name: next((path for path in paths if path.is_file()), paths[-1]) for name, paths in places.items()}


def find_origin(run_dir: Path, recipe: Recipe) -> Origin | None:
    """Return the checkpoint with whose weights the run in `run_dir` has begun or, if it has no update yet, will begin; None for random
    weights. A run that has begun names it in config.json, and nothing else is read then.

    Raises: ConfigError if start.start_from names no complete checkpoint, or one whose weights mean something else in this recipe.
    """
    started = read_started_run(run_dir)
    if started:
        recorded = started.content.get("start_from")
        return Origin(**recorded) if recorded else None
    if recipe.start.start_from is None:
        if recipe.start.required:
            raise ConfigError(
                f"recipe {recipe.name} continues the weights of another run, and {START_FROM} is none; name that run with "
                f"--set {START_FROM}=RUN_DIR, or take random weights with --set start.required=false"
            )
        return None
    checkpoint, manifest = _read(Path(recipe.start.start_from), run_dir)
    _check_fits(checkpoint, manifest, recipe)
    kept = _find_kept(checkpoint, manifest, recipe)
    check_not_lost(manifest.metadata, kept, recipe, f"{START_FROM} {checkpoint}")
    with reading(checkpoint):
        sha256 = hash_files([checkpoint / MANIFEST])
    return Origin(str(checkpoint), manifest.counters.step, manifest.metadata["recipe"]["name"], sha256, kept)


def begun_start(run_dir: Path, recipe: Recipe) -> StartConfig:
    """Return the section `start` with which the run in `run_dir` has begun; that of `recipe` if it has no update yet."""
    started = read_started_run(run_dir)
    return stored_recipe(started, recipe).start if started else recipe.start


def check_not_lost(content: Mapping[str, Any], kept: Mapping[str, Any], recipe: Recipe, where: str) -> None:
    """Check that a model that was imported without its tokenizer gets one from the user, since a new one would give its embeddings another
    meaning. `content`: what is on record about the run; `kept`: its kept files. Raises: ConfigError, beginning with `where`."""
    if "imported" not in content or kept or (recipe.data.path is not None and is_prepared(Path(recipe.data.path).expanduser())):
        return
    for setting in dict.fromkeys(KEPT.values()):
        section, name = setting.split(".")
        if getattr(getattr(recipe, section), name, "") is None:  # images and recordings have no such setting
            raise ConfigError(
                f"{where}: was imported without the {name} by which its embeddings were learned; give it with --set {setting}=FILE"
            )


def with_kept(recipe: Recipe, files: Mapping[str, Path]) -> Recipe:
    """Return the recipe for preparing data with these kept files (name -> path), such as the tokenizer."""
    return apply_overrides(recipe, [f"{KEPT[name]}={path}" for name, path in files.items()])


def check_prepared_with(prepared: Path, files: Mapping[str, Path]) -> None:
    """Check that a folder that the user has prepared was made with these kept files (name -> path). Raises: ConfigError if not."""
    now = kept_files(prepared)
    for name, path in files.items():
        if name in now and path.is_file() and now[name] != hash_files([path]):
            raise ConfigError(
                f"{prepared}: its {name} is not that of the run in {START_FROM}, by which the embeddings were learned; prepare the data "
                f"again with --set {KEPT[name]}={path}"
            )


def _read(path: Path, run_dir: Path) -> tuple[Path, Manifest]:
    """Return the checkpoint that `path` names, as an absolute path, and its manifest. A damaged one is an error, also if the run has older
    ones: a new run must not begin from another step than the user expects."""
    folders = candidates(path)
    checkpoint = (folders[0] if folders else find_checkpoint(path, f"{START_FROM} ")).resolve()
    if run_dir.resolve() == checkpoint.parent.parent:  # another run may lie below it
        raise ConfigError(f"{START_FROM} {path} is in --run-dir {run_dir}; a run that begins with these weights needs another --run-dir")
    with explaining_damage(checkpoint):
        manifest = read_manifest(checkpoint)
        check_files(checkpoint, manifest)
    return checkpoint, manifest


def _check_fits(checkpoint: Path, manifest: Manifest, recipe: Recipe) -> None:
    """Check that the checkpoint's weights mean the same in `recipe`: its modality, its objective, and all settings of model and front-end
    that change what they compute, unless run.accept_changes names them. Raises: ConfigError naming what differs."""
    stored, where = manifest.metadata["recipe"], f"{START_FROM} {checkpoint}"
    prefix = recipe.objective.inherits
    kinds = {"modality": (stored["modality"], recipe.modality)}
    if not prefix:
        kinds["objective"] = (stored.get("objective", {}).get("kind", Data2VecConfig.kind), recipe.objective.kind)
    elif not any(name.startswith(prefix) for name in manifest.parameters):
        raise ConfigError(f"{where}: has no parameters {prefix}*, with which {recipe.name} begins; name a pre-training run")
    for what, (there, here) in kinds.items():
        if there != here:
            raise ConfigError(f"{where}: has weights of the {what} {there}, and recipe {recipe.name} is of {here}; name a run of {here}")
    writer = f"{checkpoint / MANIFEST}"
    found = {key: pair for key, pair in differences(stored, recipe, writer).items() if key.startswith(("model.", "frontend."))}
    refused = {k: v for k, v in found.items() if k.rpartition(".")[2] not in WITHOUT_EFFECT and k not in recipe.run.accept_changes}
    if not refused:
        return
    named = dict(list(refused.items())[:MAX_NAMED])
    shown = ", ".join(f"{key} is {text_of_value(there)} there and {text_of_value(here)} here" for key, (there, here) in named.items())
    undo = " ".join(f"--set {key}={text_of_value(there)}" for key, (there, _) in refused.items())
    count_of = num_trunk_parameters if prefix else num_parameters  # heads differ in any case if only a part is taken
    before, now = count_of(stored_recipe(StoredConfig(stored, {}, writer), recipe)), count_of(recipe)
    if before == now:
        otherwise = f"accept {'it' if len(refused) == 1 else 'them'} with --set {accept_setting(recipe, *refused)}"
    else:
        otherwise = f"name another run: that one has {before:,} parameters, this recipe {now:,}"
    count = "1 setting differs" if len(refused) == 1 else f"{len(refused)} settings differ"
    raise ConfigError(f"{where}: {count}: {shown}; use {undo}, or {otherwise}")


def _find_kept(checkpoint: Path, manifest: Manifest, recipe: Recipe) -> dict[str, str]:
    """Return the files that the checkpoint's weights depend on, such as the tokenizer: name -> absolute path. They are in its run dir, or
    the recipe names one with the same content (KEPT has the setting). A run of an older release has recorded no hashes.

    Raises: ConfigError if the recipe names another file, or a file is missing.
    """
    run_dir, hashes = checkpoint.parent.parent, manifest.metadata.get("kept")
    found = dict[str, str]()
    for name in KEPT if hashes is None else hashes:
        there = {path: hash_files([path]) for path in (run_dir / name, run_dir / "prepared" / name) if path.is_file()}
        sha256 = hashes[name] if hashes else next(iter(there.values()), None)
        if sha256 is None:
            continue
        given = _given(recipe, KEPT[name])
        same = next((path for path, own in there.items() if own == sha256), None)
        if given and _sha256_as_kept(given) != sha256:
            raise ConfigError(
                f"{KEPT[name]} {given} is not the {name} of {START_FROM} {checkpoint}, by which its embeddings were learned; "
                f"--set {KEPT[name]}={same or 'FILE'}"
            )
        place = same or given
        if place is None:
            raise ConfigError(
                f"{START_FROM} {checkpoint}: its {name} (sha256 {sha256[:12]}) is not in {run_dir}; give it with --set {KEPT[name]}=FILE"
            )
        found[name] = str(place.resolve())
    return found


def _given(recipe: Recipe, setting: str) -> Path | None:
    section, name = setting.split(".")
    value = getattr(getattr(recipe, section), name, None)  # images and recordings have no such setting
    return Path(value).expanduser() if value is not None else None


def _sha256_as_kept(tokenizer: Path) -> str:
    """Return the SHA-256 of a tokenizer's file as a run keeps it, with canonical ids. Raises: ConfigError if it cannot be read."""
    from recipes.data.tokenizer import read_tokenizer  # here, since it imports numpy, and --help must be quick

    return hashlib.sha256(read_tokenizer(tokenizer, None).content).hexdigest()
