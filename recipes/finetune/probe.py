"""The probe command: which run and task, on which data, and where the result is stored. The probes are in cloze.py and classify.py."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from recipes.cluster.environment import quiet_libraries, require_one_process
from recipes.errors import ConfigError
from recipes.finetune.results import add_result, canonical_name, check_writable
from recipes.interop.consolidate import KIND_OF
from recipes.modalities.registry import modality_of
from recipes.values import name_argument, path_argument

LABEL_COLUMN = "label"


class Result(Protocol):
    """The result of a probe."""

    @property
    def split(self) -> str:
        """Name of the split that was tested on."""

    def lines(self, probed: Any) -> list[str]:
        """Return the lines for the terminal."""

    def to_json(self, probed: Any) -> dict[str, Any]:
        """Return the numbers for results.json, and the checkpoint that they are from."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of launch/probe.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--from", dest="from_path", type=path_argument, required=True, help="run dir or checkpoint folder")
    parser.add_argument(
        "--task", help=f"one of {', '.join(TASKS)}: predict masked words, or labels (default: cloze for text, else classify)"
    )
    parser.add_argument("--data", type=name_argument, help="what to probe on (default: what the run was trained on); classify needs labels")
    parser.add_argument("--label-column", help=f"column of a table that holds the class (default: {LABEL_COLUMN}); classify only")
    parser.add_argument(
        "--weights", choices=list(KIND_OF), default="student", help="which of the two networks (default: student; the teacher is its EMA)"
    )
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="folder for results.json and prepared text (default: the run dir)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_probe(args: argparse.Namespace) -> int:
    """Run the probe, print the result and add it to results.json in --out or the run dir. Return the exit code, 0. Raises: ConfigError if
    the flags, the run or the data cannot be used."""
    if args.task not in (None, *TASKS):
        raise ConfigError(f"--task {args.task}: unknown; there are {', '.join(TASKS)}")
    require_one_process("the probe", "launch/probe.py")
    quiet_libraries()
    from recipes.cluster.world import join_world, leave_world
    from recipes.interop.trunk import find_run  # here, since it imports for seconds

    probed = find_run(args.from_path, args.weights)
    probes = modality_of(probed.recipe.modality, probed.recipe.name).probes
    task = args.task or probes[0]
    if task not in probes:
        raise ConfigError(
            f"--task {task} is not for {probed.recipe.modality}, which {probed.recipe.name} is; use --task {' or --task '.join(probes)}"
        )
    if args.label_column and task != "classify":
        raise ConfigError(
            f"--label-column {args.label_column}: the task {task} uses no labels; use --task classify, or leave out --label-column"
        )
    args.label_column = args.label_column or LABEL_COLUMN
    folder = args.out or probed.run_dir
    check_writable(folder)
    probe = TASKS[task](probed, args, folder)
    world = join_world()
    try:
        result = probe(world.device)
    finally:
        leave_world()
    for line in result.lines(probed):
        print(line)
    key = {
        "run": None if folder.resolve() == probed.run_dir.resolve() else str(probed.run_dir.resolve()),
        "task": task,
        "data": canonical_name(args.data or probed.recipe.data.path),
        "label_column": args.label_column if task == "classify" else None,
        "split": result.split,
        "weights": args.weights,
    }
    print(f"written to {add_result(folder, key | result.to_json(probed))}")
    return 0


def _cloze(probed: Any, args: argparse.Namespace, folder: Path) -> Callable[[Any], Result]:
    """Return the function that runs the cloze probe on a device. If --data is given, prepare its text with the run's own tokenizer; else
    the run's prepared text is probed. Raises: ConfigError if the run's prepared text is not there."""
    from recipes.finetune.cloze import cloze_probe
    from recipes.finetune.probe_text import prepare_given_text

    prepared = probed.prepared
    if not prepared.exists():
        raise ConfigError(f"{prepared}: the run's prepared text and its tokenizer are not there; put the folder back")
    if args.data is not None:
        prepared = prepare_given_text(probed.recipe, prepared, args.data, folder)
    return lambda device: cloze_probe(probed, prepared, device)


def _classify(probed: Any, args: argparse.Namespace, folder: Path) -> Callable[[Any], Result]:
    from recipes.finetune.classify import classify_probe

    data = args.data or probed.recipe.data.path
    return lambda device: classify_probe(probed, data, args.label_column, device)


TASKS: dict[str, Callable[[Any, argparse.Namespace, Path], Callable[[Any], Result]]] = {"cloze": _cloze, "classify": _classify}
