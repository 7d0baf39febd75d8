"""The prepare command: flags -> the same preparation that a launcher does on first use. Torch-free."""

import argparse
from collections.abc import Callable
from pathlib import Path

from recipes.check import resolve_recipe
from recipes.config import Recipe
from recipes.data.prepare import prepare_text
from recipes.text import RECIPES

PREPARERS: dict[str, tuple[dict[str, Callable[[], Recipe]], str]] = {"text": (RECIPES, "text_tiny")}
"""modality -> its recipes and the default one."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of launch/prepare.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", choices=sorted(PREPARERS))
    parser.add_argument("--recipe", help="whose vocabulary, sequence length and break mode to prepare for (default: tiny)")
    parser.add_argument("--data", help="folder, file or hub name (default: the shipped sample)")
    parser.add_argument("--out", type=Path, required=True, help="the prepared folder to make")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a number, e.g. frontend.vocab_size=8000")
    parser.add_argument("--processes", type=int, help="worker processes (default: the cores this process may use)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare and say what to type next. Raises: ConfigError."""
    recipes, default = PREPARERS[args.modality]
    name = args.recipe or default
    recipe = resolve_recipe(name, recipes, args.set, args.data)
    folder = prepare_text(recipe.data, recipe.frontend, args.out, num_processes=args.processes, progress=True, log=print)
    changes = "".join(f" --set {assignment}" for assignment in args.set)
    print(f"next: deepspeed launch/pretrain_{args.modality}.py --recipe {name} --data {folder}{changes}")
    return 0
