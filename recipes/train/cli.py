"""The pre-training commands: flags -> recipe and ds_config -> dry run or training, and errors -> exit codes. Torch-free
until training starts, so --help and --dry-run are quick."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from recipes.check import changed_recipe, named_recipe
from recipes.cluster.command import exit_code_of
from recipes.cluster.device_memory import gpu_name, rank_memory
from recipes.cluster.environment import (
    is_first_rank,
    is_simulated_world,
    may_compute_fp16,
    may_see_devices,
    num_devices,
    quiet_libraries,
    requested_accelerator,
    world_from_environment,
)
from recipes.cluster.launch_info import launch_info
from recipes.cluster.slurm import node_name, note_on_idle_nodes
from recipes.config import Recipe
from recipes.ds_config import SHIPPED, EngineConfig, find_ds_config, load_ds_config, resolve
from recipes.errors import ConfigError, LocalError
from recipes.modalities.registry import source_of
from recipes.plan.fit import DeviceMemory, fit_micro_batch, memory_line
from recipes.plan.gather import choose_gather
from recipes.plan.links import Cluster
from recipes.plan.notes import notes as notes_on
from recipes.plan.size import parameter_line, state_bytes
from recipes.plan.summary import cluster_of, summary_lines
from recipes.reference import help_set
from recipes.settings import recipe_to_dict, settable
from recipes.suggestions import unknown_flag
from recipes.system.columns import terminal_columns
from recipes.train.from_data import with_stored_values
from recipes.train.micro_batch import kept_micro_batch
from recipes.train.probe import ProbeSource
from recipes.train.resume import check_same_recipe, has_updates
from recipes.values import name_argument, path_argument

HELP_COLUMNS = 100
"""Width of --help-set where there is no terminal."""
SET_HELP = "change a number of the recipe, e.g. optim.lr=3e-4; start.start_from=RUN_DIR begins with that run's weights"


def build_parser(description: str, recipes: Iterable[str], default: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of a pre-training command. `description`: what --help prints above the flags.

    `recipes`: the names that --recipe may have. `default`: the name of the recipe that is taken without --recipe.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--recipe", default=default, help=f"one of {', '.join(recipes)}, or FILE.py:FUNCTION (default: {default})")
    parser.add_argument("--deepspeed_config", type=path_argument, help="JSON, or a name in ds_configs/ (default: what suits the machine)")
    parser.add_argument("--data", type=name_argument, help="folder, file, prepared folder or hub name (default: the shipped sample)")
    parser.add_argument("--run-dir", type=path_argument, help="where everything goes; the same one again resumes (default: runs/RECIPE)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    parser.add_argument("--dry-run", action="store_true", help="check and print everything, train nothing")
    parser.add_argument("--help-set", nargs="?", const="", metavar="SECTION", help="what a section's settings mean, e.g. optim, ds_config")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def pretrain_main(description: str, recipes: dict[str, Callable[[], Recipe]], default: str, probes: ProbeSource | None = None) -> int:
    """Run a pre-training command with the flags of sys.argv, print an error if it fails, and return the exit code.

    `description`: what --help prints. `recipes`: name -> function that makes the recipe. `default`: the recipe without --recipe.
    `probes`: opens the probe that runs while the network is trained.
    """

    def run() -> int:
        args, unknown = build_parser(description, recipes, default).parse_known_args()
        return train_command(args, unknown, lambda: named_recipe(args.recipe, recipes), probes)

    return exit_code_of(run)


def train_command(
    args: argparse.Namespace, unknown: list[str], name_recipe: Callable[[], Recipe], probes: ProbeSource | None = None
) -> int:
    """Train, or check for --dry-run, what the flags `args` of build_parser() say. Return the exit code.

    `unknown`: arguments that the parser does not have. `name_recipe`: returns the recipe before --set and --data. `probes`: opens the probe
    that runs while the network is trained. Raises: ConfigError; LocalError on other ranks than the first.
    """
    quiet_libraries()  # a recipe of the user's may import torch
    try:
        named = name_recipe()
        if unknown:
            raise ConfigError(unknown_flag(unknown, settable(named), assignments=args.set))
        if args.help_set is not None:
            print(help_set(named, args.help_set, terminal_columns() or HELP_COLUMNS))
            return 0
        recipe, config, memory = _resolve(args, named)
        probed = _check_probe(recipe, probes)
    except ConfigError as error:
        raise error if is_first_rank() else LocalError(f"{node_name()}: {error}") from None
    run_dir = args.run_dir or Path("runs") / recipe.name
    world = world_from_environment()
    notes = notes_on(recipe, named, config, world.local_size or world.size, num_devices())
    if args.dry_run:
        return dry_run(recipe, config, run_dir, [f"probe: {probed}", *notes] if probed else notes, memory)
    if idle := note_on_idle_nodes(sys.argv):
        notes.append(idle)
    if is_first_rank() and notes:
        print(*notes, sep="\n")
    from recipes.train import loop  # seconds of imports

    return loop.run(recipe, config, run_dir, launch_info(), probes)


def _check_probe(recipe: Recipe, probes: ProbeSource | None) -> str:
    if probes is None and recipe.eval.probe_steps:
        raise ConfigError(f"eval.probe_steps {recipe.eval.probe_steps}: this command has no probe; leave it out")
    return probes.check(recipe) if probes else ""


def _resolve(args: argparse.Namespace, named: Recipe) -> tuple[Recipe, EngineConfig, DeviceMemory | None]:
    requested_accelerator()  # before DeepSpeed is imported, which would not name the variable
    recipe = changed_recipe(named, args.set, args.data)
    path = find_ds_config(args.deepspeed_config) if args.deepspeed_config else default_ds_config()
    world = world_from_environment()
    config, memory = resolve(recipe, load_ds_config(path), str(path), world.size, world.local_size), rank_memory(str(path))
    config = fit_micro_batch(recipe, config, memory) if memory else config
    return recipe, choose_gather(recipe, config, memory), memory


def _cluster(memory: DeviceMemory | None) -> Cluster | None:
    """Return the cluster of this launch; None if its devices are not in the table."""
    world, imagined = world_from_environment(), memory is not None and memory.is_assumed
    on_gpu = memory is None or memory.on_gpu
    name = gpu_name() if on_gpu and not imagined else None
    if on_gpu and not imagined and name is None:
        return None
    return cluster_of(name, world.size, world.local_size, is_imagined=imagined)


def default_ds_config() -> Path:
    """Return the path of the ds_config that is used without --deepspeed_config: zero3_bf16.json if this process may see an NVIDIA
    device, else zero3_cpu.json.

    If WORLD_SIZE was set by hand, for a dry run of ranks that do not exist, each of them is assumed to have a GPU.
    """
    return SHIPPED / ("zero3_bf16.json" if may_see_devices() or is_simulated_world() else "zero3_cpu.json")


def dry_run(recipe: Recipe, config: EngineConfig, run_dir: Path, notes: Sequence[str] = (), memory: DeviceMemory | None = None) -> int:
    """Check data and run dir, and print what would run, with the lines `notes`. Uses one process and no devices. Returns 0.

    `memory`: that of a rank's device; None if it is not known.

    Raises: ConfigError if a check fails.
    """
    if config.precision == "fp16" and not may_compute_fp16():
        raise ConfigError(
            f"{config.path}: DeepSpeed has no fp16 on this machine; use a ds_config with bf16 or fp32, or set WORLD_SIZE to imagine ranks "
            "with a GPU each"
        )
    recipe = with_stored_values(run_dir, recipe)
    check_same_recipe(run_dir, recipe)
    config = kept_micro_batch(run_dir, recipe, config)
    from recipes.train.origin import find_origin  # these two import numpy, which --help does without
    from recipes.train.run_data import check_run_data

    origin = find_origin(run_dir, recipe)
    found = check_run_data(run_dir, recipe, source_of(recipe), origin)
    batch, sizes = config.batch, state_bytes(recipe, config)
    shown = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in sizes.items() if size)
    is_guess = is_simulated_world() and config.path == str(default_ds_config())
    guess = "; imagined ranks have a GPU each, --deepspeed_config zero3_cpu is for CPUs" if is_guess else ""
    print(parameter_line(recipe))
    print(
        f"batch: {recipe.run.global_batch_size} samples = data-parallel {batch.dp_size} x micro {batch.micro_batch_size} x accumulation "
        f"{batch.accumulation_steps}; {batch.world_size} ranks, tensor-parallel {batch.tp_size}, sharded over {batch.shard_size}"
    )
    print(f"states per rank, MB: {shown}; together {sum(sizes.values()) / 1e6:,.1f}")
    print(memory_line(recipe, config, memory))
    print(*summary_lines(recipe, config, _cluster(memory)), sep="\n")
    print(f"ds_config: {config.path}, {config.precision}{guess}")
    if found:
        print(f"data: {found}")
    if origin and not has_updates(run_dir):
        print("; ".join(filter(None, (f"start: {origin.where}", recipe.objective.beginning(recipe.start)))))
    if not has_updates(run_dir) and (undecided := recipe.objective.undecided(recipe)):
        print(f"follows from the data: {undecided}")
    print(f"run dir: {run_dir}{' (exists)' if run_dir.exists() else ''}")
    print(*notes, json.dumps({"recipe": recipe_to_dict(recipe), "deepspeed": config.deepspeed}, indent=2), sep="\n")
    return 0
