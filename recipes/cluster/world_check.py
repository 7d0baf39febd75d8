"""Checks that the joined processes are the intended run: all nodes of the allocation take part; code, configuration and run dir are the
same on all of them; tensor-parallel groups lie inside nodes. Every message names the node. The rendezvous itself is in
recipes/cluster/world.py."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.cluster.checkout import checkout_digest
from recipes.cluster.slurm import allocated_nodes
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.errors import ConfigError
from recipes.settings import dotted, recipe_to_dict

SHOWN = 4
APPEARS_SECONDS = 10.0
"""How long a network file system may take to show a new file of another node."""
LOOK_SECONDS = 0.05


def check_world(world: World, recipe: Recipe, config: EngineConfig, environment: Mapping[str, Any]) -> None:
    """Check that all ranks run on the right nodes, with the same code, versions, recipe and ds_config, before anything is read or
    written. `environment`: `python` and `versions`, as in config.json.

    Raises: ConfigError on all ranks.
    """
    check_allocation(world.hosts, world.gather(allocated_nodes()))
    check_groups(world.hosts, config.batch)
    check_same(world, {"checkout": checkout_digest()[:12], "python": environment.get("python"), **environment.get("versions", {})})
    check_same(world, dotted({"recipe": recipe_to_dict(recipe), "deepspeed": config.deepspeed, "batch": asdict(config.batch)}))


def check_allocation(hosts: tuple[str, ...], allocated: list[list[str]]) -> None:
    """Check that each node that Slurm allocated runs a process. `hosts`: each rank's node. `allocated`: for each rank, the nodes that
    Slurm's variables list there.
    Raises: ConfigError if a node has no process, such as when DeepSpeed does not find the host file."""
    missing = sorted({node for nodes in allocated for node in nodes} - set(hosts))
    if missing:
        joined = list(dict.fromkeys(hosts))
        raise ConfigError(
            f"{len(joined) + len(missing)} nodes are allocated, {len(joined)} joined ({_list(joined)}), missing: {_list(missing)}; "
            "start one launcher on each node, as launch/pretrain.sbatch does (a host file that DeepSpeed does not find means one node)"
        )


def check_groups(hosts: tuple[str, ...], batch: BatchPlan) -> None:
    """Check that each tensor-parallel group, and each of several copies of the model, lies on one node. `hosts`: each rank's node.
    Raises: ConfigError, unless the ds_config allows groups across nodes."""
    _check_neighbours(hosts, batch, batch.tp_size, "tensor-parallel ranks", "tensor_model_parallel_size")
    if batch.num_replicas > 1:
        size = batch.shard_size * batch.tp_size
        _check_neighbours(hosts, batch, size, "one copy of the model, ranks", "shard_size x tensor_model_parallel_size")


def _check_neighbours(hosts: tuple[str, ...], batch: BatchPlan, size: int, what: str, key: str) -> None:
    for first in range(0, len(hosts), size):
        group = list(dict.fromkeys(hosts[first : first + size]))
        if len(group) > 1 and not batch.may_cross_nodes:
            raise ConfigError(
                f"{what} {first} to {first + size - 1} lie on {len(group)} nodes ({_list(group)}), so each layer would wait "
                f"for the network; number ranks node by node (srun --distribution=block), a multiple of {key} on each, "
                'or ask for it with "megatron": {"across_nodes": true} in the ds_config'
            )


def check_same(world: World, values: Mapping[str, Any]) -> None:
    """Check that `values` are the same on all ranks. Raises: ConfigError on all ranks that names the nodes which differ from most ranks
    (in a tie, from rank 0's side) and the first value."""
    own = json.dumps(values, sort_keys=True, default=str)
    digests = world.gather(hashlib.sha256(own.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    all_values = [json.loads(text) for text in world.gather(own)]
    counts = Counter(digests)
    usual = max(counts, key=lambda digest: (counts[digest], digest == digests[0]))
    reference = all_values[digests.index(usual)]
    odd = [rank for rank, digest in enumerate(digests) if digest != usual]
    other = all_values[odd[0]]
    name = next(key for key in sorted(reference.keys() | other.keys()) if reference.get(key) != other.get(key))
    nodes = list(dict.fromkeys(world.hosts[rank] for rank in odd))
    raise ConfigError(
        f"{_list(nodes)} ({len(odd)} of {world.size} ranks): {name} is {other.get(name)}, on {world.hosts[digests.index(usual)]} it is "
        f"{reference.get(name)}; make them the same on all nodes, best by one checkout and environment on a file system that they share"
    )


def check_run_dir(world: World, path: Path, token: str) -> None:
    """Check that every node reads `token` from the file .lock in the run dir, where rank 0 has written it. A node has 10 s
    (APPEARS_SECONDS) to see it. Raises: ConfigError on all ranks, with the names of the nodes that do not see it."""
    lock = path / ".lock"
    deadline = time.monotonic() + APPEARS_SECONDS
    while not (sees := _content(lock) == token) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    blind = list(dict.fromkeys(world.hosts[rank] for rank, ok in enumerate(world.gather(sees)) if not ok))
    if blind:
        raise ConfigError(
            f"--run-dir {path}: {_list(blind)} ({len(blind)} of {len(set(world.hosts))} nodes) do not see what {world.hosts[0]} wrote "
            "there; put it on a file system that all nodes share"
        )


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _list(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
