"""Writes a checkpoint: each rank its shards, then all at once a complete folder. Knows shards, not DeepSpeed."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from recipes.checkpoint.layout import FORMAT, KINDS, Counters, Range, range_to_json, step_folder, write_text_atomically
from recipes.train import shards
from recipes.train.engine import Engines
from recipes.train.world import World


def save_checkpoint(run_dir: Path, engines: Engines, counters: Counters, world: World, extra: dict[str, Any]) -> Path:
    """Write checkpoints/step_N under a temporary name, rename it when every rank is done, then move `latest`.

    A collective. `extra` goes into state.json beside the counters. Raises: OSError where the disk refuses.
    """
    target = step_folder(run_dir, counters.step)
    temporary = target.with_name(f".{target.name}.tmp")
    if world.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier(group=world.control)
    tensors, header = collect_shards(engines)
    save_file(tensors, temporary / f"rank_{world.rank:05d}.safetensors", metadata=header)
    dist.barrier(group=world.control)
    if world.rank == 0:
        state = {"format": FORMAT, "counters": asdict(counters), "world_size": world.size, **extra}
        write_text_atomically(temporary / "state.json", json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        write_text_atomically(target.parent / "latest", target.name + "\n")
    dist.barrier(group=world.control)
    return target


def collect_shards(engines: Engines) -> tuple[dict[str, Tensor], dict[str, str]]:
    """This rank's tensors (KIND/PARAMETER -> unpadded range in float32) and their ranges as header entries. Parameters
    that every TP rank holds whole are taken from TP rank 0 only."""
    tensors: dict[str, Tensor] = {}
    header: dict[str, str] = {}
    parallel = engines.parallel
    for name, parameter in shards.named_parameters(engines.student):
        split = shards.is_split(parameter)
        offset, count = shards.shard_range(parameter)
        if count == 0 or (not split and parallel.tp_rank != 0):
            continue
        place = Range(
            name,
            tuple(parameter.ds_shape),
            parameter.partition_dim if split else None,
            parallel.tp_rank,
            parallel.tp_size if split else 1,
            offset,
            count,
        )
        for kind in KINDS:
            shard = shard_of(engines, name, parameter, kind)
            if shard is not None:
                tensors[f"{kind}/{name}"] = shard[:count].detach().cpu().clone()
                header[f"{kind}/{name}"] = range_to_json(place)
    return tensors, header


def shard_of(engines: Engines, name: str, parameter: Any, kind: str) -> Tensor | None:
    """The live shard of one kind; None where the teacher has no such parameter (the head)."""
    if kind == "master":
        return shards.master_shard(parameter)
    if kind == "shadow":
        return engines.shadow.shadows.get(name)
    return shards.moment_shard(parameter, kind)
