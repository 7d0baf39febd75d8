"""launch/plan.py: flags -> the plan of a run, printed. Torch-free, and it starts nothing."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import changed_recipe, named_recipe
from recipes.config import Recipe
from recipes.ds_config import SHIPPED, find_ds_config, load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.finetune.speech_tasks import SPEECH_TASKS, speech_recipe
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe
from recipes.plan.fit import fit_micro_batch
from recipes.plan.gather import choose_gather
from recipes.plan.links import EXAMPLE, Cluster
from recipes.plan.memory import GIB
from recipes.planner.calibrate import calibrate
from recipes.planner.choices import choices, least_memory, nearest, smallest_cluster
from recipes.planner.explain import explain_memory, explain_time
from recipes.planner.run_plan import HOST_GIB, RunPlan, device_memory
from recipes.planner.show import as_json, in_words, lines
from recipes.suggestions import did_you_mean
from recipes.values import path_argument

TASKS: Mapping[str, tuple[Mapping[str, Any], Callable[[str, Any, Recipe], Recipe]]] = {
    "text": (TEXT_TASKS, text_recipe),
    "speech": (SPEECH_TASKS, speech_recipe),
    "vision": (VISION_TASKS, vision_recipe),
}
"""Modality -> the tasks of fine-tuning, and the function that makes their recipe."""
EXPLANATIONS = {"memory": explain_memory, "time": explain_time}
Say = Callable[[str], None]


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags. `description`: what --help prints above them."""
    names = [name for recipes in RECIPES.values() for name in recipes]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(names)}, or FILE.py:FUNCTION")
    parser.add_argument("--task", help="plan the fine-tuning of the recipe's network on this task, e.g. sst2, ctc, classify")
    parser.add_argument(
        "--deepspeed_config", type=path_argument, help="JSON, or a name in ds_configs/ (default: zero3_bf16; on a CPU zero3_cpu)"
    )
    parser.add_argument(
        "--cluster", type=Cluster.of_text, default=Cluster(), help=f"{EXAMPLE}, and numbers of the device; or a JSON object or file"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a number of the recipe, as in training")
    parser.add_argument(
        "--calibrate", type=path_argument, nargs="+", metavar="RUN_DIR", help="take the device's rates from a run of this recipe, or two"
    )
    parser.add_argument("--price-per-gpu-hour", type=price, metavar="PRICE", help="of one device, in any currency")
    parser.add_argument("--explain", choices=sorted(EXPLANATIONS), help="print the arithmetic line by line")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def price(text: str) -> float:
    """Return the price that `text` is. Raises: ConfigError unless it is a number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ConfigError(f"--price-per-gpu-hour {text}: must be a number from 0")
    return value


def run_plan(args: argparse.Namespace, say: Say) -> int:
    """Print the plan that the flags ask for. Returns 0. Raises: ConfigError."""
    cluster: Cluster = args.cluster
    recipe = changed_recipe(asked_recipe(args.recipe, args.task), args.set, None)
    path = find_ds_config(args.deepspeed_config or SHIPPED / ("zero3_cpu.json" if cluster.device.is_shared else "zero3_bf16.json"))
    content = load_ds_config(path)
    plan = asked_plan(recipe, content, str(path), cluster)
    notes = []
    if args.calibrate:
        found = calibrate(args.calibrate, recipe, plan.config, cluster)
        plan = RunPlan(recipe, plan.config, found.cluster, tokens_share=found.tokens_share)
        notes.append(found.line)
    plan.cluster.teraflops(plan.config.precision)  # raises if the device has no peak
    if args.json and args.explain:
        raise ConfigError(f"--json --explain {args.explain}: --json has all numbers; leave one of them out")
    ranked = choices(recipe, content, str(path), plan.cluster, plan.tokens_share)
    if undecided := recipe.objective.undecided(recipe):
        notes.append(f"follows from the data: {undecided}")
    if args.json:
        say(json.dumps(as_json(plan, ranked, args.price_per_gpu_hour)))
    elif args.explain:
        for line in (*EXPLANATIONS[args.explain](plan), *notes):
            say(line)
    else:
        for line in (*lines(plan, ranked, args.price_per_gpu_hour), *notes):
            say(line)
    return 0


def asked_recipe(name: str, task: str | None) -> Recipe:
    """Return the recipe of --recipe and --task. Raises: ConfigError."""
    everything = {name: make for recipes in RECIPES.values() for name, make in recipes.items()}
    network = named_recipe(name, everything)
    if task is None:
        return network
    tasks, make = TASKS.get(network.modality, ({}, text_recipe))
    if task not in tasks:
        raise ConfigError(f"--task {task}: no task of {network.modality}; {did_you_mean(task, tasks)}there are {', '.join(tasks)}")
    return make(task, tasks[task], network)


def asked_plan(recipe: Recipe, content: dict[str, Any], path: str, cluster: Cluster) -> RunPlan:
    """Return the plan of the ds_config as it is. Raises: ConfigError if it is not legal or does not fit, with the nearest that does."""
    memory = device_memory(cluster)
    config = resolve(recipe, content, path, cluster.num_ranks, cluster.gpus)
    if config.has_auto_micro_batch:
        config = fit_micro_batch(recipe, config, memory)
    plan = RunPlan(recipe, choose_gather(recipe, config, memory), cluster)
    if plan.fits:
        return plan
    near = choices(recipe, content, path, cluster)
    host = f" and {plan.host_bytes / GIB:.0f} GiB of the host, where {HOST_GIB:.0f} are assumed" if plan.host_bytes > HOST_GIB * GIB else ""
    fact = f"{recipe.name} needs {plan.memory.worst.in_words} on a rank, which has {memory.size / GIB:.2f} GiB{host}"
    if near:
        raise ConfigError(f"{path}: {fact}; the nearest that fits: {in_words(nearest(plan, near))}")
    least = least_memory(recipe, content, path, cluster)
    at_least = f", and {least.memory.worst.total / GIB:.2f} GiB in the layout that needs least" if least else ""
    if least and least.host_bytes > HOST_GIB * GIB:
        at_least += f", which needs {least.host_bytes / GIB:.0f} GiB of host memory, where {HOST_GIB:.0f} are assumed"
    larger = smallest_cluster(recipe, content, path, cluster)
    remedy = f"the smallest cluster that carries it has {larger.nodes} nodes of {larger.gpus}" if larger else "take a smaller model"
    raise ConfigError(f"{path}: {fact}{at_least}; {remedy}")
