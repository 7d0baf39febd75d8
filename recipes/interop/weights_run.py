"""The command `weights` of launch/convert.py: a run dir with the weights of a run and nothing else, such as an encoder that is given away.
It has neither the optimizer's moments nor a teacher, so it takes a quarter of the disk or less. Torch-free until it runs."""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from recipes.cluster.environment import quiet_libraries, require_one_process
from recipes.config import Recipe
from recipes.data.tokenizer_files import tokenizer_in
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.interop.import_command import check_free
from recipes.interop.stored_run import StoredRun, find_stored_run, tokenizer_folder
from recipes.settings import recipe_to_dict, with_changed
from recipes.system.atomic_folder import atomic_folder
from recipes.values import last_part, path_argument, without_folder


def add_command(commands: Any) -> None:
    """Add `weights` to the sub-commands of launch/convert.py."""
    parser = commands.add_parser("weights", help="make a run dir that holds the weights alone, without moments", allow_abbrev=False)
    parser.add_argument("--from", dest="source", type=path_argument, required=True, metavar="PATH", help="run dir or checkpoint folder")
    parser.add_argument("--weights", choices=list(KIND_OF), default="student", help="which of the two networks (default: student)")
    parser.add_argument("--run-dir", type=path_argument, required=True, help="a folder that does not exist yet, or an empty one")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.set_defaults(run=run_weights)


def run_weights(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run `weights`: write the run dir, print what was written and how to use it, and return 0. Raises: ConfigError; DamagedCheckpoint."""
    require_one_process("weights", "launch/convert.py")
    check_free(args.run_dir)
    run = find_stored_run(args.source)
    quiet_libraries()
    size = write_weights_run(run, args.weights, args.run_dir)
    say(f"{args.weights} of {run.checkpoint}: {size:,} bytes, written to {args.run_dir}")
    say(f"use it as any run: --from {args.run_dir}, or --set start.start_from={args.run_dir} for a new run that trains on")
    return 0


def write_weights_run(run: StoredRun, weights: str, run_dir: Path) -> int:
    """Write a run dir whose only checkpoint, of step 0, has the student's or the teacher's float32 weights as those of the student, with
    the run's settings and tokenizer. The head is always the student's. Absolute paths in settings and command keep only their last part,
    since they mean nothing on another machine. Return the bytes of the checkpoint. The run dir appears complete or not at all.

    Raises: ConfigError if the run has no such weights or the folder cannot be written; DamagedCheckpoint.
    """
    from recipes.checkpoint.whole import write_whole  # seconds of imports
    from recipes.interop.stored_weights import StoredWeights

    stored = StoredWeights(run.checkpoint, weights)
    manifest = stored.manifest
    entries = {name: replace(entry, partition=prod(entry.shape)) for name, entry in manifest.parameters.items()}
    values = {"master": {name: partial(stored.tensor, name) for name in stored.names}}
    origin = {"weights_of": run.recipe.name, "weights": weights, "step": manifest.counters.step}
    metadata = _without_folders(manifest.metadata, run.recipe) | {"origin": origin, "spikes": {}, "time": time.time()}
    try:
        with atomic_folder(run_dir.resolve()) as folder:
            checkpoint = write_whole(folder, entries, values, metadata)
            (folder / "config.json").write_text(json.dumps(_without_folders(run.content, run.recipe) | {"origin": origin}, indent=2) + "\n")
            _copy_tokenizer(run, folder)
            event = {"time": time.time(), "event": "import", "step": 0, **origin}
            (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
            return sum(path.stat().st_size for path in checkpoint.iterdir())
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: {error.strerror or error}; name a folder on a disk with room") from None


def _without_folders(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return the content of config.json or a manifest with the last part alone of each absolute path. `recipe`: that of the content."""
    found = content | {"recipe": recipe_to_dict(with_changed(recipe, without_folder))}
    if "command" in found:
        found["command"] = [last_part(word) for word in found["command"]]
    if found.get("deepspeed_config"):
        found["deepspeed_config"] = last_part(found["deepspeed_config"])
    return found


def _copy_tokenizer(run: StoredRun, folder: Path) -> None:
    """Copy the run's tokenizer, if it has one, to the two places where a run has it."""
    source = tokenizer_folder(run.run_dir, run.recipe)
    found = tokenizer_in(source) if source is not None else None
    if found is not None:
        (folder / "prepared").mkdir()
        for place in (folder, folder / "prepared"):
            shutil.copyfile(found, place / found.name)
