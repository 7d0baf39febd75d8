"""The lines of a dry run about FLOPs, tokens, time and the size of a checkpoint. Torch-free. launch/plan.py says more."""

from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.errors import ConfigError
from recipes.plan.devices import CPU, H100, device_by_cuda_name
from recipes.plan.flops import sample_flops
from recipes.plan.links import Cluster
from recipes.plan.memory import checkpoint_bytes
from recipes.plan.step import step_plan

DAY = 86400.0


def cluster_of(device_name: str | None, num_ranks: int, local_size: int | None, *, is_imagined: bool) -> Cluster | None:
    """Return the cluster on which a launch would run. `device_name`: of its GPUs by the driver; None: it has none. `local_size`: ranks of a
    node, None: all of them. `is_imagined`: the ranks do not exist, and each is taken to have an H100. None if the device is not in the
    table."""
    gpus = local_size or (min(num_ranks, 8) if is_imagined else num_ranks)
    nodes = -(-num_ranks // gpus)
    if device_name is None:
        return Cluster(nodes, gpus, H100 if is_imagined else CPU)
    device = device_by_cuda_name(device_name)
    return Cluster(nodes, gpus, device) if device else None


def summary_lines(recipe: Recipe, config: EngineConfig, cluster: Cluster | None) -> list[str]:
    """Return the lines about what a run computes and how long that takes. `cluster` None: not known, so without the time."""
    flops, run = sum(sample_flops(recipe).values()), recipe.run
    length = recipe.frontend.tokens_per_sample(recipe.data.longest_sample)
    tokens = run.global_batch_size * length
    lines = [
        f"FLOPs: {flops / 1e9:,.2f}e9 a sample, {run.global_batch_size * flops / 1e12:,.2f}e12 an update; at most {tokens:,} tokens an "
        f"update and {tokens * run.max_steps / 1e9:,.3f}e9 in the run",
        f"checkpoint: {checkpoint_bytes(recipe) / 1e9:,.2f} GB",
    ]
    return lines + ([time_line(recipe, config, cluster)] if cluster else [])


def time_line(recipe: Recipe, config: EngineConfig, cluster: Cluster) -> str:
    """Return the line about the time of an update and of the run, at the tabulated efficiency of the device."""
    device = cluster.device
    where = f"{cluster.num_ranks} {device.name} ranks" if device.is_shared else f"{cluster.num_ranks} x {device.name}"
    try:
        step = step_plan(recipe, config, cluster)
    except ConfigError as error:
        return f"time: not estimated, {error.without_remedy}"
    days = recipe.run.max_steps * step.total / DAY
    shown = f"{days:,.1f} days" if days >= 2 else f"{24 * days:,.2f} hours"
    return (
        f"time, estimated for {where}: {1e3 * step.total:,.0f} ms an update, {step.binds} binds, the run {shown}; "
        "launch/plan.py has the arithmetic"
    )
