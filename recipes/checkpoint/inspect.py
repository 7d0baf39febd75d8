"""Prints what a checkpoint holds. Reads the manifest and changes nothing. Torch-free, unless every hash is checked (--verify)."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import MANIFEST, Manifest, candidates, check_files, newest, read_manifest, step_of
from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.settings import dotted
from recipes.start_config import START_FROM
from recipes.values import path_argument, text_of_value

SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")
"""Settings of the model that `inspect` prints."""
MOST_VALUES = 20
"""Values of one setting that it prints."""


def add_command(commands: Any) -> None:
    """Add `inspect` to the sub-commands of launch/convert.py."""
    parser = commands.add_parser("inspect", help="print what a checkpoint holds, and check it with --verify", allow_abbrev=False)
    parser.add_argument("path", type=path_argument, metavar="PATH", help="run dir (its newest complete checkpoint) or checkpoint folder")
    parser.add_argument("--parameters", action="store_true", help="a line for each parameter: name, whole shape, how it was split")
    parser.add_argument("--verify", action="store_true", help="read everything and check every hash")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.set_defaults(run=run_inspect)


def run_inspect(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run `inspect`: print what a checkpoint holds, and return 0. `say` prints a line. Raises: ConfigError; DamagedCheckpoint that names
    the first damaged file or tensor."""
    folder = find_checkpoint(args.path, "")
    with reading(folder):
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        lines = describe(folder, manifest)
    for line in [*lines, *(parameter_lines(manifest) if args.parameters else [])]:
        say(line)
    if args.verify:
        from recipes.checkpoint.load import CheckpointReader  # a second of imports that the manifest does not need

        with reading(folder):
            say(f"{CheckpointReader(folder).verify():,} ranges verified")
    return 0


def find_checkpoint(path: Path, flag: str) -> Path:
    """Return the newest complete checkpoint if `path` is a run dir. Any other folder is returned as it is, and should be a checkpoint.
    `flag`: the option that `path` was given with, such as "--from ", or "".

    Raises: ConfigError if there is no such folder or checkpoint. Its message begins with `flag` and the path.
    """
    if not path.is_dir():
        raise ConfigError(f"{flag}{path}: no such folder; name a run dir (runs/text_tiny) or a folder checkpoints/step_N in one")
    if not any((path / name).exists() for name in ("checkpoints", "config.json")):
        if path.resolve().parent.name != "checkpoints" and not any(path.glob("rank_*")) and not (path / MANIFEST).exists():
            raise ConfigError(f"{flag}{path}: neither a run dir nor a checkpoint folder; name a run dir such as runs/text_tiny")
        return path  # read_manifest refuses a checkpoint that is not complete
    found = newest(path)
    if found is None and is_hugging_face(path):
        raise ConfigError(
            f"{flag}{path}: a Hugging Face directory; make a run of it: python launch/convert.py import --from {path} --run-dir RUN_DIR"
        )
    if found is None and (damaged := candidates(path)):
        raise ConfigError(f"{flag}{path}: none of its {len(damaged)} checkpoints is complete; restore one from a copy, or name another run")
    if found is None:
        raise ConfigError(f"{flag}{path}: the run has no complete checkpoint yet; wait for one (run.save_steps) or let the run end")
    return found


def is_hugging_face(folder: Path) -> bool:
    """True if config.json of the folder is that of a Hugging Face model."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """In this block, which reads a checkpoint, an OSError becomes a ConfigError: the disk fails, or a running run has removed the
    folder."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror or error}); if its run removed it, name a newer one") from None


@contextmanager
def explaining_damage(checkpoint: Path) -> Iterator[None]:
    """In this block, which reads the checkpoint that a run begins with, an error names the setting and the way to an older checkpoint.
    Raises: ConfigError instead of DamagedCheckpoint and OSError."""
    try:
        with reading(checkpoint):
            yield
    except DamagedCheckpoint as error:
        fact = str(error).removesuffix("; use an older one")
        older = [folder for folder in candidates(checkpoint.parent.parent) if step_of(folder) < step_of(checkpoint)]
        remedy = f"the one before it is --set {START_FROM}={older[0]}" if older else f"name another run in {START_FROM}"
        raise ConfigError(f"{START_FROM} {fact}; {remedy}") from None


def describe(folder: Path, manifest: Manifest) -> list[str]:
    """Return lines that describe a checkpoint: progress, recipe, when and with which versions it was written, number of ranks, files and
    sizes."""
    counters, metadata = manifest.counters, manifest.metadata
    values = sum(prod(entry.shape) for entry in manifest.parameters.values())
    size = manifest.num_bytes() + (folder / MANIFEST).stat().st_size
    ranks = f"{manifest.tp_size * manifest.dp_size} ranks = data-parallel {manifest.dp_size} x tensor-parallel {manifest.tp_size}"
    return [
        f"checkpoint {folder}",
        f"step {counters.step:,}, update {counters.update:,} ({counters.update - counters.step:,} skipped), {counters.samples:,} samples, "
        f"{counters.tokens:,} tokens",
        _recipe_line(metadata.get("recipe", {})),
        *_objective_lines(metadata.get("recipe", {}).get("objective", {})),
        _origin_line(metadata),
        f"written by {ranks}",
        f"parameters: {len(manifest.parameters):,} with {values:,} values; {size:,} bytes, {size / max(1, values):.2f} a value",
        *(f"  {file.name}  {file.bytes:>16,} bytes, tensor-parallel rank {file.tp_rank}, data-parallel rank {file.dp_rank}"
          for file in manifest.files),
    ]  # fmt: skip


def _recipe_line(recipe: dict[str, Any]) -> str:
    model, run = recipe.get("model", {}), recipe.get("run", {})
    sizes = [f"{name} {model[name]}" for name in SIZES if name in model]
    sizes += [f"{name} {run[name]}" for name in ("global_batch_size", "seed") if name in run]
    return f"recipe {recipe.get('name', 'unknown')} ({recipe.get('modality', 'unknown modality')}): {', '.join(sizes)}"


def _objective_lines(objective: dict[str, Any]) -> list[str]:
    """Return a line with the objective's kind and settings; [] for a checkpoint of a release that recorded no objective."""
    if "kind" not in objective:
        return []
    settings = {name: value for name, value in dotted(objective).items() if name != "kind" and value not in ([], "")}
    shown = [f"{name} {_shown(value)}" for name, value in settings.items()]
    return [f"objective {objective['kind']}{': ' if shown else ''}{'; '.join(shown)}"]


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > MOST_VALUES:
        return f"{text_of_value(value[:MOST_VALUES])} and {len(value) - MOST_VALUES} more"
    return text_of_value(value)


def _origin_line(metadata: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(metadata["time"])) if "time" in metadata else "at an unknown time"
    versions = [f"{name} {version}" for name, version in metadata.get("versions", {}).items()]
    versions += [f"python {metadata['python']}"] if "python" in metadata else []
    commit = f", commit {metadata['git_commit'][:12]}" if metadata.get("git_commit") else ""
    return f"written {when} with {', '.join(versions) or 'unknown versions'}{commit}; data {metadata.get('data_fingerprint') or 'unknown'}"


def parameter_lines(manifest: Manifest) -> list[str]:
    """Return a line for each parameter: name, whole shape, and the dimension along which tensor parallelism splits it, or "whole"."""
    width = max(map(len, manifest.parameters), default=0)
    return [
        f"  {name:<{width}}  {' x '.join(map(str, entry.shape)):<14}  {'whole' if entry.tp_dim is None else f'split along {entry.tp_dim}'}"
        for name, entry in manifest.parameters.items()
    ]
