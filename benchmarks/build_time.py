"""Measures the time and the memory in which one of many ranks builds student, teacher and optimizer of a large network, in one process: the
engines that training builds, on a fake process group that sends nothing.

python benchmarks/build_time.py --layers 32 --hidden 4096 --world 64 --rank 17
"""

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from build_memory import MIB, peak_bytes, reset_peak
from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.plan.size import num_parameters, state_bytes
from recipes.text import text_large

HEAD_WIDTH = 128


def main() -> int:
    """Parse the flags, measure, print one JSON object, and end the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096, help=f"hidden size, a multiple of {HEAD_WIDTH}")
    parser.add_argument("--deepspeed_config", type=Path, default=ROOT / "ds_configs" / "zero3_bf16.json")
    parser.add_argument("--world", type=int, default=64, help="data-parallel ranks")
    parser.add_argument("--rank", type=int, default=17, help="the rank that this process is")
    args = parser.parse_args()
    if not 0 <= args.rank < args.world or args.layers < 1 or args.hidden < 1 or args.hidden % HEAD_WIDTH:
        raise ConfigError(f"--rank {args.rank} --world {args.world} --layers {args.layers} --hidden {args.hidden}: see --help")
    quiet_libraries()
    print(json.dumps(measure(args)), flush=True)
    os._exit(0)  # a fake process group cannot be destroyed


def settings(args: argparse.Namespace) -> tuple[Recipe, EngineConfig]:
    """Return text_large with the layers and widths of the flags, and the resolved ds_config for one sample on each rank."""
    recipe = text_large()
    widths = {"hidden_size": args.hidden, "ffn_hidden_size": 4 * args.hidden, "num_attention_heads": args.hidden // HEAD_WIDTH}
    model = replace(recipe.model, num_layers=args.layers, **widths)
    recipe = replace(recipe, model=model, run=replace(recipe.run, global_batch_size=args.world))
    content = load_ds_config(args.deepspeed_config) | {"train_micro_batch_size_per_gpu": 1}
    return recipe, resolve(recipe, content, str(args.deepspeed_config), args.world)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Build the objective's engines, and return the seconds, the peak memory and what memory is expected. The gathers of whole parameters
    with which DeepSpeed makes its hooks are copies in memory here."""
    os.environ.update(DS_ACCELERATOR="cpu", RANK=str(args.rank), WORLD_SIZE=str(args.world), LOCAL_RANK="0", LOCAL_SIZE="8")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", OMP_NUM_THREADS="1")
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from model.parallel import Parallel
    from recipes.objectives.registry import build_objective

    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=args.rank, world_size=args.world)
    recipe, config = settings(args)
    everyone = dist.group.WORLD
    assert everyone is not None
    parallel = Parallel(dist.new_group([args.rank]), everyone, 1, 0, args.world, args.rank)
    before, start, began = reset_peak(), time.process_time(), time.perf_counter()
    beats = [began]
    objective = build_objective(recipe, config, parallel, alive=lambda: beats.append(time.perf_counter()))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - start
    peak = peak_bytes() - before
    largest = max(parameter.ds_numel * parameter.element_size() for parameter in objective.student.module.parameters())
    silences = [later - earlier for earlier, later in itertools.pairwise(beats)]
    return {
        "parameters": num_parameters(recipe),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "longest_silence_seconds": round(max(silences), 1),
        "peak_mib": round(peak / MIB),
        "state_mib": round(sum(state_bytes(recipe, config).values()) / MIB),
        "largest_parameter_mib": round(largest / MIB),
    }


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
