"""The prepare command: prepares a data set as a pre-training command does on first use."""

import argparse
import shlex

from recipes.catalog import RECIPES, default_recipe
from recipes.check import check_modality, resolve_recipe
from recipes.data.shards import is_prepared
from recipes.modalities.registry import MODALITIES
from recipes.values import name_argument, path_argument, positive_count


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of launch/prepare.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("modality", choices=sorted(RECIPES))
    parser.add_argument("--recipe", help="whose data settings to prepare for (default: tiny)")
    parser.add_argument("--data", type=name_argument, help="folder, file or hub name (default: the shipped sample)")
    parser.add_argument("--out", type=path_argument, required=True, help="the prepared folder to make")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a number, e.g. frontend.vocab_size=8000")
    parser.add_argument("--processes", type=positive_count, help="worker processes (default: the cores this process may use)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare the data set and print the next command. Returns the exit code. Raises: ConfigError."""
    name = args.recipe or default_recipe(args.modality)
    recipe = resolve_recipe(name, RECIPES[args.modality], args.set, args.data)
    check_modality(recipe, args.modality)
    was_prepared = is_prepared(args.out)
    folder = MODALITIES[args.modality].prepare(recipe, args.out, num_processes=args.processes, progress=True, log=print)
    if was_prepared or folder != args.out:
        print(f"{folder} is prepared already, from these data and settings")
    words = ["--recipe", name, "--data", str(folder), *(word for assignment in args.set for word in ("--set", assignment))]
    print(f"next: deepspeed launch/pretrain_{args.modality}.py {shlex.join(words)}")
    return 0
