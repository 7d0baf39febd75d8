"""Write the student or the teacher of a run as a Hugging Face directory: weights, config.json, the files that prepare inputs, and a model
card. It runs in one process, one tensor at a time, and without transformers. Torch is imported only when the command runs."""

import argparse
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.checkpoint.inspect import reading
from recipes.checkpoint.layout import best_folder, read_manifest
from recipes.cluster.environment import require_one_process
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.interop.hf_files import CONFIG, WEIGHTS, as_json
from recipes.interop.stored_run import StoredRun, find_stored_run
from recipes.interop.task_facts import best_of
from recipes.values import path_argument

if TYPE_CHECKING:
    from recipes.interop.hf_tensors import HfTensors
    from recipes.interop.import_source import ImportSource
    from recipes.interop.processors import Processor

EXPORT_FILES = "data2vec_export_files"
"""Key of the weights' metadata by which an export is recognised. The value is the JSON list of the names of its files."""


def add_command(commands: Any) -> None:
    """Add `export` to the sub-commands of launch/convert.py."""
    parser = commands.add_parser("export", help="write the student or the teacher as a Hugging Face directory", allow_abbrev=False)
    parser.add_argument(
        "--from",
        dest="source",
        type=path_argument,
        required=True,
        metavar="PATH",
        help="run dir (its best checkpoint if it has one, else the newest) or checkpoint folder",
    )
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--weights", choices=list(KIND_OF), default="student", help="which of the two networks (default: student)")
    parser.add_argument("--force", action="store_true", help="replace --out if it is an earlier export")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run `export`: write the directory, print lines about it, and return 0. Raises: ConfigError, DamagedCheckpoint."""
    require_one_process("export", "launch/convert.py")
    run, note = chosen_run(args.source)
    for line in [*note, *export(run, args.weights, args.out, replace=args.force)]:
        say(line)
    return 0


def chosen_run(source: Path) -> tuple[StoredRun, list[str]]:
    """Return the run and the checkpoint to export, and a line if it is not the newest one. `source`: a checkpoint folder, or a run dir. Of
    a run dir the best checkpoint is taken if the run has one (eval.metric), else the newest. Raises: ConfigError, DamagedCheckpoint."""
    run = find_stored_run(source)
    best = best_folder(run.run_dir) if source.resolve() == run.run_dir.resolve() else None
    if best is None:
        return run, []
    with reading(best):
        value = best_of(run, read_manifest(best))
    others = "which is the newest too" if best == run.checkpoint else f"the newest is {run.checkpoint}, to be named in --from"
    return replace(run, checkpoint=best), [f"taken: {best}, the best checkpoint{f' ({value})' if value else ''}; {others}"]


def export(run: StoredRun, weights: str, out: Path, *, replace: bool = False) -> list[str]:
    """Write `weights` ("student" or "teacher") of a run to the new folder `out`. It appears complete or not at all. `replace`: an earlier
    export there is replaced as a whole; after a failure it is still there.

    Returns: lines about what was written. Raises: ConfigError if `out` cannot be written, if transformers cannot express the model, or if
    the checkpoint has no such weights; DamagedCheckpoint.
    """
    from recipes.checkpoint.tensor_file import write_tensors
    from recipes.interop.hf_format import format_of_recipe
    from recipes.interop.hf_tensors import HfTensors
    from recipes.interop.import_source import ImportSource
    from recipes.interop.stored_weights import StoredWeights
    from recipes.system.atomic_folder import atomic_folder, moved_aside, undo_moved_aside

    hf_format = format_of_recipe(run.recipe)
    source = ImportSource(run.run_dir)
    decided = hf_format.config_of(run.recipe) | {"architectures": hf_format.own_config["architectures"]}  # not the source's head
    config = _config(source.config or hf_format.own_config, decided)
    target = Path(os.path.abspath(out))  # "." has no name
    if not target.exists():
        undo_moved_aside(target)
    _check_target(target, out, replace)
    stored = StoredWeights(run.checkpoint, weights)
    tensors = HfTensors(stored, hf_format, run.recipe, config, source)
    tensors.check()
    processor = hf_format.processor(run.recipe, run.run_dir)
    small = _small_files(run, weights, target, processor=processor, tensors=tensors, source=source) | {
        CONFIG: as_json(dict(sorted(config.items())))
    }
    metadata = {"format": "pt", EXPORT_FILES: json.dumps(sorted([*small, WEIGHTS]))}
    with ExitStack() as stack, atomic_folder(target) as folder:  # the new folder is complete before the old one is moved
        for name, content in small.items():
            (folder / name).write_bytes(content)
        write_tensors(folder / WEIGHTS, tensors.shapes, tensors.tensors(), metadata)
        size = (folder / WEIGHTS).stat().st_size
        if target.exists():
            stack.enter_context(moved_aside(target))
    return [
        f"{weights} of {run.checkpoint}: {len(tensors.shapes)} tensors, {size:,} bytes, written to {out} ({', '.join(sorted(small))})",
        f"load it: {processor.load_line.format(folder=out)}",
        *([processor.missing] if processor.missing else []),
    ]


def _config(base: dict[str, Any], decided: dict[str, Any]) -> dict[str, Any]:
    """Return config.json: `base`, overlaid with the fields that the recipe decides."""
    kept = {name: value for name, value in base.items() if name != "torch_dtype"}
    return kept | decided | {"dtype": "float32"}


def _check_target(target: Path, out: Path, replace: bool) -> None:
    """Raises: ConfigError if the folder `target` must not be written. `out`: the same as the user named it."""
    if not target.exists() and not target.is_symlink():
        return
    if not replace:
        raise ConfigError(f"--out {out}: exists already; name another folder, or replace an earlier export with --force")
    names = _exported_names(target)
    if names is None:
        raise ConfigError(f"--out {out}: is no export ({WEIGHTS} has no mark of one), so --force does not replace it; name another folder")
    others = sorted({path.name for path in target.iterdir()} - names)
    if others:
        raise ConfigError(
            f"--out {out}: {len(others)} files there are not of the export, such as {others[0]}, so --force does not replace it; "
            "move them away or name another folder"
        )


def _exported_names(folder: Path) -> set[str] | None:
    """Return the names of all files that the export in the folder was written with; None if there is no export. A model that another
    program has saved there is none."""
    from safetensors import SafetensorError, safe_open

    if folder.is_symlink() or not (folder / WEIGHTS).is_file():
        return None
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return set(json.loads(metadata[EXPORT_FILES])) if EXPORT_FILES in metadata else None


def _small_files(
    run: StoredRun, weights: str, target: Path, *, processor: "Processor", tensors: "HfTensors", source: "ImportSource"
) -> dict[str, bytes]:
    """Return name -> content of the files beside weights and config.json. `target`: where the export will be."""
    from recipes.interop.model_card import NAME, Exported, model_card

    exported = Exported(
        run=run,
        manifest=tensors.manifest,
        weights=weights,
        processor=processor,
        left_out=tensors.left_out,
        untrained=tensors.untrained,
        is_imported=source.config is not None,
    )
    return {**processor.files, NAME: model_card(exported, target).encode()}
