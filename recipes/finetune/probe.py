"""The probe command: what to probe, on which data, where the result goes. The probes themselves are in its neighbours."""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from recipes.cluster.environment import quiet_libraries, world_from_environment
from recipes.errors import ConfigError
from recipes.finetune.results import add_result, check_writable
from recipes.interop.consolidate import KIND_OF
from recipes.modalities.registry import modality_of
from recipes.values import place, place_name


class Result(Protocol):
    """What a probe found."""

    @property
    def split(self) -> str:
        """What it was tested on."""

    def lines(self, source: Any) -> list[str]:
        """For the terminal."""

    def to_json(self, source: Any) -> dict[str, Any]:
        """The numbers for results.json, and where they are from."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of launch/probe.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=place, required=True, help="run dir or checkpoint folder")
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: cloze for text, else classify)")
    parser.add_argument("--data", type=place_name, help="what to probe on (default: what the run was trained on); classify needs labels")
    parser.add_argument("--label-column", default="label", help="column of a table that holds the class (default: label)")
    parser.add_argument(
        "--weights", choices=list(KIND_OF), default="student", help="which of the two networks (default: student; the teacher is its EMA)"
    )
    parser.add_argument("--out", type=place, metavar="DIR", help="folder for results.json and prepared text (default: the run dir)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_probe(args: argparse.Namespace) -> int:
    """Probe, print, and add the result to results.json in --out or the run dir. Raises: ConfigError."""
    if args.task not in (None, *TASKS):
        raise ConfigError(f"--task {args.task}: unknown; there are {', '.join(TASKS)}")
    world_size = world_from_environment().size
    if world_size > 1:
        raise ConfigError(f"the probe runs on one process, {world_size} were started; use python launch/probe.py")
    quiet_libraries()
    from recipes.cluster.world import join_world, leave_world
    from recipes.finetune.trunk import find_source  # seconds of imports

    source = find_source(args.source, args.weights)
    probes = modality_of(source.recipe.modality, source.recipe.name).probes
    task = args.task or probes[0]
    if task not in probes:
        raise ConfigError(
            f"--task {task} is not for {source.recipe.modality}, which {source.recipe.name} is; use --task {' or --task '.join(probes)}"
        )
    folder = args.out or source.run_dir
    check_writable(folder)
    probe = TASKS[task](source, args, folder)
    world = join_world()
    try:
        result = probe(world.device)
    finally:
        leave_world()
    for line in result.lines(source):
        print(line)
    question = {
        "run": None if folder.resolve() == source.run_dir.resolve() else str(source.run_dir.resolve()),
        "task": task,
        "data": _spelled(args.data or source.recipe.data.path),
        "label_column": args.label_column if task == "classify" else None,
        "split": result.split,
        "weights": args.weights,
    }
    print(f"written to {add_result(folder, question | result.to_json(source))}")
    return 0


def _spelled(data: str | None) -> str:
    """The same data set by the same name, from wherever the command is started."""
    if data is None:
        return "sample"
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def _cloze(source: Any, args: argparse.Namespace, folder: Path) -> Callable[[Any], Result]:
    """Prepare the text with the run's own tokenizer, then probe."""
    from recipes.data.prepare import prepare_text
    from recipes.finetune.cloze import cloze_probe

    prepared = source.prepared
    if not prepared.exists():
        raise ConfigError(f"{prepared}: the run's prepared text and its tokenizer are not there; put the folder back")
    if args.data is not None:
        data = replace(source.recipe.data, path=args.data, split="all", tokenizer=str(prepared / "tokenizer.model"))
        name = f"{Path(args.data).name}-{hashlib.sha256(_spelled(args.data).encode()).hexdigest()[:8]}"
        prepared = prepare_text(data, source.recipe.frontend, folder / "probe" / name, progress=True, log=print)
    return lambda device: cloze_probe(source, prepared, device)


def _classify(source: Any, args: argparse.Namespace, folder: Path) -> Callable[[Any], Result]:
    from recipes.finetune.classify import classify_probe

    data = args.data or source.recipe.data.path
    return lambda device: classify_probe(source, data, args.label_column, device)


TASKS: dict[str, Callable[[Any, argparse.Namespace, Path], Callable[[Any], Result]]] = {"cloze": _cloze, "classify": _classify}
