"""The probe command: what to probe, on which data, where the result goes. The probes themselves are in its neighbours."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from recipes.checkpoint.layout import write_text_atomically
from recipes.errors import ConfigError
from recipes.train.environment import quiet_libraries, world_from_environment

TASKS = ("cloze",)


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of launch/probe.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="run dir or checkpoint folder")
    parser.add_argument("--task", default="cloze", help=f"one of {', '.join(TASKS)} (default: cloze)")
    parser.add_argument("--data", help="text to probe on, as for pre-training (default: what the run was trained on, its held-out share)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_probe(args: argparse.Namespace) -> int:
    """Probe, print, and write RUN_DIR/results.json. Raises: ConfigError."""
    if args.task not in TASKS:
        raise ConfigError(f"--task {args.task}: unknown; there is {', '.join(TASKS)}")
    _, world_size = world_from_environment()
    if world_size > 1:
        raise ConfigError(f"the probe runs on one process, {world_size} were started; use python launch/probe.py")
    quiet_libraries()
    from recipes.data.prepare import prepare_text  # seconds of imports
    from recipes.finetune.cloze import cloze_probe, describe
    from recipes.finetune.trunk import find_source
    from recipes.train.world import join_world, leave_world

    source = find_source(args.source)
    prepared = source.prepared
    if args.data is not None:
        data = source.recipe.data
        tokenizer = str(prepared / "tokenizer.model")
        prepared = prepare_text(
            replace(data, path=args.data, tokenizer=tokenizer),
            source.recipe.frontend,
            source.run_dir / "probe" / Path(args.data).name,
            log=print,
        )
    world = join_world()
    try:
        result = cloze_probe(source, prepared, world.device)
    finally:
        leave_world()
    for line in describe(result, source.recipe):
        print(line)
    path = source.run_dir / "results.json"
    write_text_atomically(path, json.dumps(result.to_json(source), indent=2) + "\n")
    print(f"written to {path}")
    return 0
