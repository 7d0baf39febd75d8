"""What --from names: the network that is fine-tuned, and the weights with which a run begins. A run that has begun is asked first, so that
it continues although its source was moved or deleted. Torch-free, except for a model of Hugging Face."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import best_folder
from recipes.config import Recipe
from recipes.data.tokenizer_files import tokenizer_in
from recipes.errors import ConfigError
from recipes.finetune.imported_source import described_model, imported_run, is_named, model_name, names_model
from recipes.interop.stored_run import find_stored_run, tokenizer_folder
from recipes.modalities.registry import modality_of
from recipes.run_dir.run_dir import StoredConfig
from recipes.settings import recipe_from_dict
from recipes.start_config import StartConfig
from recipes.train.resume import read_started_run

RANDOM = "random"
TOKENIZER_FROM = "finetune.tokenizer_from"
IMPORTED_FROM = "finetune.imported_from"


@dataclass(frozen=True)
class SourceFlags:
    """What the command line says about the weights with which a run begins."""

    source: str | None
    """--from; None if it was not given."""
    modality: str
    """That of the command."""
    run_dir: Path
    tokenizer_from: str | None = None
    """The setting finetune.tokenizer_from."""
    writes: bool = True
    """False for a dry run: a model of Hugging Face is described and not imported."""


@dataclass(frozen=True)
class Source:
    """The network that is fine-tuned, and the weights with which it begins."""

    network: Recipe
    """Recipe whose model and front-end are taken."""
    start: StartConfig = field(default_factory=StartConfig)
    """The recipe's section `start`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the run, by their dotted names."""


def find_source(flags: SourceFlags, random_network: Callable[[], Recipe]) -> Source:
    """Return the network and the weights that --from names. If the run dir has a run that has begun, they are those of config.json, and
    what --from names need not exist any more; then it may be left out too. `random_network`: returns the recipe that --recipe names, whose
    network begins with random weights. Raises: ConfigError."""
    started, source = read_started_run(flags.run_dir), flags.source
    if source is not None and source != RANDOM:
        _check_elsewhere(source, flags.run_dir)
        if flags.tokenizer_from is not None:
            raise ConfigError(f"{TOKENIZER_FROM} is for --from {RANDOM}; with --from {source} the tokenizer is that of {source}")
    if started:
        return _of_started_run(flags, started, random_network)
    if source is None:
        raise ConfigError(f'--from is missing; name a run dir, a checkpoint, a Hugging Face folder, or "{RANDOM}"')
    if source == RANDOM:
        return _of_random(random_network(), flags.tokenizer_from)
    if names_model(source):
        return _of_model(source, flags)
    return _of_run(Path(source).expanduser(), flags.modality)


def _check_elsewhere(source: str, run_dir: Path) -> None:
    own, named = run_dir.resolve(), Path(source).expanduser().resolve()
    if named == own or (own in (named.parent, named.parent.parent) and named.parent.name == "checkpoints"):
        raise ConfigError(f"--from {source} is in --run-dir {run_dir}; a fine-tuned run needs another --run-dir than its source")


def _of_started_run(flags: SourceFlags, started: StoredConfig, random_network: Callable[[], Recipe]) -> Source:
    held = f"--run-dir {flags.run_dir} holds a run"
    if started.recipe.get("modality") != flags.modality:
        raise ConfigError(f"{held} of {started.recipe.get('modality')}, and this command trains {flags.modality}; name another --run-dir")
    stored = recipe_from_dict(started.recipe, modality_of(flags.modality, held).kinds, started.writer)
    before, model = stored.start, stored.finetune.imported_from
    if flags.source == RANDOM:
        if before.start_from is not None:
            raise ConfigError(
                f"{held} that began with {model or before.start_from}, not with random weights; leave --from out, or name another --run-dir"
            )
        network = random_network()  # --recipe may name another one than at the start, which is then refused
        return Source(network if flags.tokenizer_from is None else _with_vocabulary_of(network, stored))
    start = before if flags.source is None else StartConfig(start_from=flags.source)  # compared with that of the run when it is resumed
    if flags.source is not None and model is not None:
        if not (is_named(flags.source, model) or is_named(flags.source, before.start_from)):
            raise ConfigError(f"{held} that began with {model}, not with {flags.source}; leave --from out, or name another --run-dir")
        start = before
    return Source(stored, start, {IMPORTED_FROM: model})


def _with_vocabulary_of(network: Recipe, stored: Recipe) -> Recipe:
    frontend: Any = network.frontend
    return replace(network, frontend=replace(frontend, vocab_size=stored.frontend.vocab_size))  # type: ignore[attr-defined]


def _of_random(network: Recipe, tokenizer_from: str | None) -> Source:
    """Return the network with random weights. With `tokenizer_from`, it has the tokenizer of that run, and as many symbols as its network,
    whatever number the recipe has."""
    if tokenizer_from is None:
        return Source(network)
    if not hasattr(network.data, "tokenizer"):
        raise ConfigError(f"{TOKENIZER_FROM} {tokenizer_from}: a network of {network.modality} has no tokenizer; leave it out")
    stored = find_stored_run(Path(tokenizer_from).expanduser(), f"{TOKENIZER_FROM} ")
    folder = tokenizer_folder(stored.run_dir, stored.recipe)
    tokenizer = tokenizer_in(folder) if folder else None
    if tokenizer is None:
        raise ConfigError(
            f"{TOKENIZER_FROM} {tokenizer_from}: a run of {stored.recipe.modality} without tokenizer; name a run that has one"
        )
    return Source(_with_vocabulary_of(network, stored.recipe), settings={"data.tokenizer": str(tokenizer.resolve())})


def _of_model(source: str, flags: SourceFlags) -> Source:
    """Return the network of a model of Hugging Face. A dry run describes it without a start, since there is no imported run yet."""
    settings = {IMPORTED_FROM: model_name(source)}
    if not flags.writes:
        return Source(described_model(source, flags.modality, flags.run_dir), settings=settings)
    return replace(_of_run(imported_run(source, flags.modality, flags.run_dir), flags.modality), settings=settings)


def _of_run(path: Path, modality: str) -> Source:
    """Return the network of a run dir or checkpoint folder. Of a run that has kept the checkpoint of its best evaluation, that one is
    taken."""
    stored = find_stored_run(path)
    if stored.recipe.modality != modality:
        raise ConfigError(f"--from {path}: is a run of {stored.recipe.modality}; use launch/finetune_{stored.recipe.modality}.py")
    best = best_folder(path)
    return Source(stored.recipe, StartConfig(start_from=str(best or path)))
