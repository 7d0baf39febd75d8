"""Memory use of a training run, and remedies if it is not enough. Out-of-memory errors are recognised in recipes/cluster/memory.py."""

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch

from recipes.checkpoint.layout import newest, step_of
from recipes.cluster.memory import naming_out_of_memory
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig, plan_batch
from recipes.errors import ConfigError
from recipes.watch.heartbeat import Heartbeat
from recipes.watch.watch import Watch

PREPARING = ("start", "prepare", "data set")
BUILDING = ("engines", "load", "logs")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory since this process started: of tensors on a GPU, or of the whole process (peak RSS) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def format_bytes(size: int) -> str:
    """Return a number of bytes as text, such as `1.2 GiB` or `340 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def explaining_out_of_memory(recipe: Recipe, config: EngineConfig, world: World, watch: Watch) -> AbstractContextManager[None]:
    """Return a context manager that turns an error about lacking memory in its block into OutOfMemory, with the place in the run and
    remedies. `watch` has the place."""
    return naming_out_of_memory(lambda message: explain(message, watch.place, recipe, config, world))


def explain(message: str, place: Heartbeat, recipe: Recipe, config: EngineConfig, world: World) -> str:
    """Return the error text for a lack of memory: rank, place in the run, the original `message`, and remedies."""
    rank = f" on rank {world.rank} ({world.hosts[world.rank]})" if world.size > 1 else ""
    trains = place.phase not in (*PREPARING, *BUILDING)
    where = f"at step {place.step + 1}, {place.phase} of micro-batch {place.micro_batch}" if trains else f"while starting, {place.phase}"
    return f"out of memory{rank} {where} ({message}): {', or '.join(remedies(place.phase, recipe, config, world.device))}"


def remedies(phase: str, recipe: Recipe, config: EngineConfig, device: torch.device) -> Iterator[str]:
    """Yield short texts on what helps if memory runs out, the cheapest remedy first. `phase`: that of the heartbeat, such as "data"."""
    if phase in PREPARING:
        yield "prepare the data before, with launch/prepare.py --processes 1, where there is more memory"
        return
    workers = recipe.data.num_workers
    if phase == "data" and (workers is None or workers > 1):
        yield f"read with fewer processes (--set data.num_workers={workers // 2 if workers else 1})"
    micro, smaller = config.batch.micro_batch_size, smaller_micro_batch(recipe, config.batch)
    if phase in BUILDING:
        pass  # these phases compute no micro-batch
    elif smaller:
        yield f'write "train_micro_batch_size_per_gpu": {smaller} into {config.path} ({micro} now; the update stays the same)'
    else:
        yield f"train_micro_batch_size_per_gpu is {micro} already: take shorter samples or a smaller model"
    if device.type == "cuda":
        if config.precision == "fp32":
            yield "compute in bf16 (ds_configs/zero3_bf16.json)"
        if not config.offloads_optimizer:
            yield "keep the optimizer on the host (ds_configs/zero3_offload_cpu.json)"
        yield "take more GPUs, among which ZeRO divides the state"
    else:
        yield "take a machine with more memory or fewer ranks on this one"


def smaller_micro_batch(recipe: Recipe, batch: BatchPlan) -> int | None:
    """Return a smaller micro-batch size that keeps the number of samples of an update: the largest that is at most half of the present
    one. None if there is none."""
    for micro in range(batch.micro_batch_size // 2, 0, -1):
        with suppress(ConfigError):
            return plan_batch(recipe, micro, batch.tp_size, batch.world_size).micro_batch_size
    return None


def resume_hint(run_dir: Path) -> str:
    """Return the end of an error message: the step from which the same command continues, or that nothing is saved yet."""
    checkpoint = newest(run_dir)
    return f"the same command continues from step {step_of(checkpoint)}" if checkpoint else "nothing is saved yet"
