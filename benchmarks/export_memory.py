"""Measures the host memory and the time of an export to Hugging Face's format: a run with random weights is written, and exported by a
process that has only imported what an export needs.

python benchmarks/export_memory.py --recipe text_large --json
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

from safetensors import safe_open

from build_memory import peak_bytes, reset_peak
from recipes.catalog import find_recipe
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.interop.export import export
from recipes.interop.stored_run import find_stored_run
from recipes.settings import recipe_to_dict

IMPORTED = ("hf_format", "hf_tensors", "stored_weights", "processors", "model_card")
"""Modules of recipes/interop that an export imports when it begins."""


def main() -> int:
    """Parse the flags, measure, and print the numbers. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="text_large", help="recipe of the run that is exported (default: text_large)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)  # write the run to this folder, in a process of its own
    args = parser.parse_args()
    quiet_libraries()
    if args.make:
        write_random_run(args.make, args.recipe)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--recipe", args.recipe, "--make", f"{folder}/run"], check=True)
        result = measure(Path(folder) / "run", Path(folder) / "out")
    print(json.dumps(result) if args.json else "  ".join(f"{name} {value:,.1f}" for name, value in result.items()))
    return 0


def write_random_run(run_dir: Path, name: str) -> None:
    """Write a run of the recipe `name` with one checkpoint of random weights, as an import leaves it."""
    from model.parallel import having_a_world
    from recipes.catalog import RECIPES
    from recipes.checkpoint.whole import entry_of, write_whole
    from recipes.interop.imported_run import build_student

    recipe = find_recipe(name, {key: make for recipes in RECIPES.values() for key, make in recipes.items()})()
    with having_a_world():
        parameters = dict(build_student(recipe).named_parameters())
    content = {"recipe": recipe_to_dict(recipe)}
    run_dir.mkdir(parents=True)
    entries = {key: entry_of(value) for key, value in parameters.items()}
    write_whole(run_dir, entries, {"master": {key: value.detach for key, value in parameters.items()}}, content)
    (run_dir / "config.json").write_text(json.dumps(content))


def measure(run_dir: Path, out: Path) -> dict[str, float]:
    """Export the student of the run. Returns the megabytes of the weights and of the largest tensor, by how many the largest resident size
    grew, and the seconds."""
    for name in IMPORTED:
        importlib.import_module(f"recipes.interop.{name}")
    before, begin = reset_peak() / 1e6, time.perf_counter()
    export(find_stored_run(run_dir), "student", out)
    seconds, growth = time.perf_counter() - begin, peak_bytes() / 1e6 - before
    with safe_open(out / "model.safetensors", framework="pt") as file:
        sizes = [4 * prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118  (it is no dictionary)
    return {"weights_mb": sum(sizes) / 1e6, "largest_mb": max(sizes) / 1e6, "growth_mb": growth, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
