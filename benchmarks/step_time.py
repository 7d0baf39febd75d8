"""Measures the time of one optimizer update and its share of the measured matmul peak, with the engines that training builds. Other
settings, and plain torch, are timed in the same process, one update of each in turn; their ratios hold on a busy machine too.

python benchmarks/step_time.py --modality text --size base --batch 4 --length 512 --dropout 0 --profile --json
python benchmarks/step_time.py --modality speech --precision bf16 --against precision=fp32 --peer
python benchmarks/step_time.py --set model.attention_dropout=0.1 --against model.attention_dropout=0
python benchmarks/step_time.py --size base --task classify --batch 16 --length 128 --plain --json
OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 benchmarks/step_time.py --batch 4 --json

Under torchrun every rank runs micro-batches of --batch samples, and rank 0 prints. Load by other processes is then not measured.
"""

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import changed_recipe
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, find_ds_config, load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.finetune.text_tasks import TEXT_TASKS
from recipes.modalities.registry import MODALITIES
from recipes.train.cli import default_ds_config
from step_recipe import PRECISIONS, build_recipe, random_batch, task_recipe, with_precision

FLAGS: dict[str, Callable[[str], Any]] = {"batch": int, "length": int, "dropout": str, "precision": str, "deepspeed_config": Path}
"""Flags that --against may change, without their dashes, and the type of each value."""


def main() -> int:
    """Parse the flags, measure, and print one JSON object or one line per figure. Notes go to stderr. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default="text", choices=sorted(RECIPES))
    parser.add_argument("--size", default="base", choices=["tiny", "base", "large"])
    parser.add_argument("--task", choices=list(TEXT_TASKS), help="fine-tune on this task of text instead of pre-training")
    parser.add_argument("--batch", type=int, default=4, help="samples of one micro-batch, which is the whole update")
    parser.add_argument("--length", type=int, help="tokens of a text (default 512), seconds of a recording (10)")
    parser.add_argument("--dropout", default="published", help='"published" (the recipe\'s) or a number for all kinds of dropout')
    parser.add_argument("--precision", choices=PRECISIONS, help="instead of the ds_config's")
    parser.add_argument("--deepspeed_config", type=Path, default=default_ds_config())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the recipe, as in training")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"also time other engines, which differ by this: a setting of the recipe, or {', '.join(FLAGS)}; repeatable",
    )
    parser.add_argument("--plain", action="store_true", help="also time the same modules in plain torch")
    parser.add_argument("--peer", action="store_true", help="also time data2vec built from torch's own layers (peer_step.py)")
    parser.add_argument("--steps", type=int, default=5, help="measured updates of each, after some for warming up")
    parser.add_argument("--profile", action="store_true", help="add the top operators, the host's time, waits and copies")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.steps < 1:
        raise ConfigError(f"--steps {args.steps}: at least one update must be measured")
    args.length = MODALITIES[args.modality].benchmark_length if args.length is None else args.length
    quiet_libraries()
    result = measure(args)
    if int(os.environ.get("RANK", "0")):
        return 0
    print(*result["notes"], sep="\n", file=sys.stderr)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def changed_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Return the flags of the engines to compare with: `args` with the changes of --against. Raises: ConfigError."""
    other = copy.deepcopy(args)
    for assignment in args.against:
        key, equals, value = assignment.partition("=")
        if equals and key in FLAGS:
            try:
                setattr(other, key, FLAGS[key](value))
            except ValueError:
                raise ConfigError(f"--against {assignment}: {key} must be a number") from None
        elif equals and "." in key:
            other.set.append(assignment)
        else:
            raise ConfigError(
                f"--against {assignment}: neither a setting of the recipe, such as model.attention_dropout=0, nor one of {', '.join(FLAGS)}"
            )
    if other.precision not in (None, *PRECISIONS):
        raise ConfigError(f"--against precision={other.precision}: must be one of {', '.join(PRECISIONS)}")
    return other


def asked(args: argparse.Namespace) -> tuple[Recipe, EngineConfig]:
    """Return the recipe and the ds_config that the flags ask for. Raises: ConfigError."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    recipe = build_recipe(f"{args.modality}_{args.size}", batch=args.batch, length=args.length, dropout=args.dropout)
    changes = [f"run.global_batch_size={args.batch * ranks}", *args.set]
    recipe = changed_recipe(task_recipe(recipe, args.task) if args.task else recipe, changes, None)
    path = find_ds_config(args.deepspeed_config)
    content = with_precision(load_ds_config(path), args.precision) | {"train_micro_batch_size_per_gpu": args.batch}
    return recipe, resolve(recipe, content, str(path), ranks)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Build what the flags ask for, time updates, and return all figures."""
    from model.parallel import init_parallel
    from recipes.cluster.world import join_world, leave_world
    from recipes.engine.products import choose_products
    from recipes.objectives.registry import build_objective
    from recipes.train.kernels import choose_kernels
    from step_profile import profiled
    from step_rounds import AGAINST, OURS, Rounds, efficiency
    from timed_update import WARM_UP, EngineSteps

    settings, others = asked(args), changed_flags(args)
    other_settings = asked(others) if args.against else None
    world = join_world()
    parallel = init_parallel(settings[1].batch.tp_size, world.device.type, settings[1].batch.num_replicas)
    choose_kernels(settings[0].run.deterministic)

    def chosen(recipe: Recipe, config: EngineConfig) -> tuple[Recipe, EngineConfig]:
        return recipe, replace(config, products=choose_products(recipe.run.products, None, world))

    settings = chosen(*settings)

    def build(recipe: Recipe, config: EngineConfig, flags: argparse.Namespace) -> EngineSteps:
        objective = build_objective(recipe, config, parallel)
        return EngineSteps(recipe, objective, random_batch(recipe, flags.batch, flags.length).to(world.device), world)

    ours = build(*settings, args)
    for _ in range(WARM_UP):
        ours.update()
    result = alone_figures(ours, settings[1])  # before the others need memory too
    contenders: dict[str, Callable[[], Mapping[str, float]]] = {OURS: ours.update}
    if other_settings:
        contenders[AGAINST] = build(*chosen(*other_settings), others).update
    contenders |= torch_contenders(args, ours, settings[1])
    rounds = Rounds(contenders, settings[1].precision, world.device)
    rounds.run(args.steps, warm_up=WARM_UP if len(contenders) > 1 else 0)
    if world.size > 1:
        rounds.foreign_cores = None  # the other ranks would count
    result |= rounds.figures(args.against) | efficiency(ours, rounds)
    result["metrics_milliseconds"] = 1e3 * ours.metrics_seconds
    small = {name: result["split_milliseconds"][name] for name in ("after_step", "guard")} | {"metrics": result["metrics_milliseconds"]}
    result["percent_of_step"] = {name: 100 * value / result["step_milliseconds"] for name, value in small.items()}
    if args.profile:
        result["profile"] = profiled(lambda: ours.update(waits=False), waiting(world.device), is_cuda=world.device.type == "cuda")
    leave_world()
    return result


def alone_figures(ours: Any, config: EngineConfig) -> dict[str, Any]:
    """Return peak memory, device, precision and versions."""
    import torch

    from recipes.train.memory import peak_memory_bytes

    device = torch.device(ours.objective.student.device)
    return {
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": config.precision,
        "products": config.products,
        "versions": {name: metadata.version(name) for name in ("torch", "deepspeed", "megatron-core")},
    }


def torch_contenders(args: argparse.Namespace, ours: Any, config: EngineConfig) -> dict[str, Callable[[], Mapping[str, float]]]:
    """Return name -> function that runs one update in plain torch and returns its seconds, for --plain and --peer."""
    import torch

    from peer_step import PeerStep
    from plain_step import plain_step_of
    from step_rounds import DTYPES, PEER, PLAIN

    device = torch.device(ours.objective.student.device)
    dtype, wait = DTYPES[config.precision], waiting(device)
    chosen: dict[str, Callable[[], Mapping[str, float]]] = {}

    def timed(run: Callable[[], object]) -> dict[str, float]:
        start = time.perf_counter()
        run()
        wait()
        return {"step": time.perf_counter() - start}

    if args.plain:
        plain = plain_step_of(ours.recipe, ours.objective.parallel, config.products, device=device, dtype=dtype)
        chosen[PLAIN] = lambda: timed(lambda: plain.run(ours.batch, ema=True))
    if args.peer:
        if args.task:
            raise ConfigError(f"--peer --task {args.task}: the peer is only pre-trained; leave one of them out")
        peer = PeerStep(ours.recipe, device=device, dtype=dtype)
        chosen[PEER] = lambda: timed(lambda: peer.run(ours.batch))
    return chosen


def waiting(device: Any) -> Callable[[], None]:
    """Return a function that waits until the device is idle."""
    import torch

    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
