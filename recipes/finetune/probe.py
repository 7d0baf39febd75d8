"""The probe command: what to probe, on which data, where the result goes. The probes themselves are in its neighbours."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from recipes.cluster.environment import quiet_libraries, world_from_environment
from recipes.errors import ConfigError
from recipes.modalities.registry import modality_of
from recipes.system.durable import write_text_atomically


class Result(Protocol):
    """What a probe found."""

    def lines(self, recipe: Any) -> list[str]:
        """For the terminal."""

    def to_json(self, source: Any) -> dict[str, Any]:
        """For results.json."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of launch/probe.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="run dir or checkpoint folder")
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: cloze for text, else classify)")
    parser.add_argument("--data", help="what to probe on (default: what the run was trained on); classify needs labels")
    parser.add_argument("--label-column", default="label", help="column of a table that holds the class (default: label)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_probe(args: argparse.Namespace) -> int:
    """Probe, print, and write RUN_DIR/results.json. Raises: ConfigError."""
    if args.task not in (None, *TASKS):
        raise ConfigError(f"--task {args.task}: unknown; there are {', '.join(TASKS)}")
    world_size = world_from_environment().size
    if world_size > 1:
        raise ConfigError(f"the probe runs on one process, {world_size} were started; use python launch/probe.py")
    quiet_libraries()
    from recipes.cluster.world import join_world, leave_world
    from recipes.finetune.trunk import find_source  # seconds of imports

    source = find_source(args.source)
    probes = modality_of(source.recipe.modality, source.recipe.name).probes
    task = args.task or probes[0]
    if task not in probes:
        raise ConfigError(
            f"--task {task} is not for {source.recipe.modality}, which {source.recipe.name} is; use --task {' or --task '.join(probes)}"
        )
    probe = TASKS[task](source, args)
    world = join_world()
    try:
        result = probe(world.device)
    finally:
        leave_world()
    for line in result.lines(source.recipe):
        print(line)
    path = source.run_dir / "results.json"
    write_text_atomically(path, json.dumps(result.to_json(source), indent=2) + "\n")
    print(f"written to {path}")
    return 0


def _cloze(source: Any, args: argparse.Namespace) -> Callable[[Any], Result]:
    """Prepare the text with the run's own tokenizer, then probe."""
    from recipes.data.prepare import prepare_text
    from recipes.finetune.cloze import cloze_probe

    prepared = source.prepared
    if args.data is not None:
        data = replace(source.recipe.data, path=args.data, split="all", tokenizer=str(prepared / "tokenizer.model"))
        prepared = prepare_text(data, source.recipe.frontend, source.run_dir / "probe" / Path(args.data).name, log=print)
    return lambda device: cloze_probe(source, prepared, device)


def _classify(source: Any, args: argparse.Namespace) -> Callable[[Any], Result]:
    from recipes.finetune.classify import classify_probe

    data = args.data or source.recipe.data.path
    return lambda device: classify_probe(source, data, args.label_column, device)


TASKS: dict[str, Callable[[Any, argparse.Namespace], Callable[[Any], Result]]] = {"cloze": _cloze, "classify": _classify}
