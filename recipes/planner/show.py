"""The plan as JSON and as lines for the terminal. Torch-free."""

import math
from collections.abc import Iterator
from typing import Any

from recipes.plan.flops import sample_flops
from recipes.plan.memory import GIB, PhaseMemory
from recipes.plan.size import num_parameters, parameter_line, rank_parameters
from recipes.planner.choices import layout_of
from recipes.planner.run_plan import DEVICE_MTBF_HOURS, HOURS, RESTART_SECONDS, RunPlan
from recipes.planner.sources import sources_of

SHOWN_CHOICES = 5
BINDS = {"memory": "memory bandwidth"}
"""What binds -> how it is called, if not by itself."""
Parts = dict[str, Any]


def as_json(plan: RunPlan, ranked: list[RunPlan], price: float | None) -> Parts:
    """Return the plan as an object of JSON. `ranked`: the choices, the fastest first. `price`: of one device for an hour."""
    batch, step = plan.config.batch, plan.step
    return {
        "recipe": plan.recipe.name,
        "deepspeed_config": plan.config.path,
        "cluster": {"nodes": plan.cluster.nodes, "gpus": plan.cluster.gpus, "device": plan.cluster.device.name},
        "precision": plan.config.precision,
        "parameters": num_parameters(plan.recipe),
        "parameters_per_rank": rank_parameters(plan.recipe, plan.config),
        "flops_per_sample": sample_flops(plan.recipe) | {"total": sum(sample_flops(plan.recipe).values())},
        "batch": {
            **{"global": plan.recipe.run.global_batch_size, "micro": batch.micro_batch_size, "accumulation": batch.accumulation_steps},
            **{"data_parallel": batch.dp_size, "tensor_parallel": batch.tp_size, "shard_size": batch.shard_size},
        },
        "memory_bytes_per_rank": {name: _phase(phase) for name, phase in plan.memory._asdict().items()},
        "device_memory_bytes": plan.device_bytes,
        "fits": plan.fits,
        "step_seconds": step.device | {"host": step.host, "links": step.links, "loader": step.loader, "total": step.total},
        "tokens_per_second": plan.tokens_per_second,
        "mfu": plan.mfu,
        **(_run(plan, price) if plan.has_length else dict.fromkeys(RUN_KEYS)),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "binds": plan.step.binds,
        "sources": {name: number._asdict() for name, number in sources_of(plan).items()},
        "choices": [_choice(other) for other in ranked],
    }


RUN_KEYS = ("days", "gpu_hours", "price", "kilowatt_hours", "interruptions", "save_interval_seconds")
"""Keys that are null if the number of updates follows from the data."""


def _run(plan: RunPlan, price: float | None) -> Parts:
    cost = None if price is None else price * plan.gpu_hours
    values = plan.days, plan.gpu_hours, cost, plan.kilowatt_hours, plan.interruptions, plan.save_interval_seconds
    return dict(zip(RUN_KEYS, values, strict=True))


def _phase(phase: PhaseMemory) -> Parts:
    parts = {name: round(size) for group in phase.device.values() for name, size in group.items()}
    host = {name: round(size) for group in phase.host.values() for name, size in group.items()}
    return parts | {"total": phase.total} | ({"host": host | {"total": phase.host_total}} if host else {})


def _choice(plan: RunPlan) -> Parts:
    layout, batch = layout_of(plan.config), plan.config.batch
    return {
        **{"micro_batch_size": batch.micro_batch_size, "tensor_model_parallel_size": layout.tp_size, "shard_size": layout.shard_size},
        **{"offload": layout.offloads, "activation_checkpointing": layout.recomputes},
        **{"step_seconds": plan.step.total, "memory_bytes": plan.memory.worst.total, "tokens_per_second": plan.tokens_per_second},
        **{"mfu": plan.mfu, "days": plan.days if plan.has_length else None, "binds": plan.step.binds},
    }


def lines(plan: RunPlan, ranked: list[RunPlan], price: float | None) -> Iterator[str]:
    """Yield the plan as lines. Arguments: see as_json()."""
    batch, cluster = plan.config.batch, plan.cluster
    yield f"{plan.recipe.name}, {plan.config.path}, {plan.config.precision}, on {cluster.nodes} x {cluster.gpus} {cluster.device.name}"
    yield f"{parameter_line(plan.recipe)}; {rank_parameters(plan.recipe, plan.config):,} on a tensor-parallel rank"
    yield flops_line(plan)
    yield (
        f"batch: {plan.recipe.run.global_batch_size} samples = data-parallel {batch.dp_size} x micro {batch.micro_batch_size} x "
        f"accumulation {batch.accumulation_steps}; tensor-parallel {batch.tp_size}, sharded over {batch.shard_size}"
    )
    yield from memory_lines(plan)
    yield step_line(plan)
    if plan.has_length:
        yield run_line(plan, price)
        yield interruption_line(plan)
    yield ""
    yield from choice_lines(plan, ranked)
    yield ""
    yield from source_lines(plan)


def flops_line(plan: RunPlan) -> str:
    """Return the line about the FLOPs of a sample: forward, backward and teacher."""
    parts = sample_flops(plan.recipe)
    backward = sum(flops for name, flops in parts.items() if name.endswith(" backward"))
    teacher = sum(flops for name, flops in parts.items() if name.startswith("teacher "))
    total = sum(parts.values())
    shown = f"forward {(total - backward - teacher) / 1e9:,.1f}, backward {backward / 1e9:,.1f}, teacher {teacher / 1e9:,.1f}"
    return f"FLOPs of a sample, in 10^9: {shown}, together {total / 1e9:,.1f}"


def memory_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the lines about the memory of a rank."""
    for name, phase in zip(("building", "training", "saving"), plan.memory, strict=True):
        host = f"; on the host {phase.host_total / GIB:.2f} GiB" if phase.host else ""
        yield f"memory per rank, {name}: {phase.in_words}{host}"
    need, have = plan.memory.worst.total, plan.device_bytes
    if not plan.fits_well:
        yield f"it fits barely: {need / GIB:.2f} of {have / GIB:.2f} GiB, and the libraries need some for themselves"
    else:
        yield f"it fits: {need / GIB:.2f} of {have / GIB:.2f} GiB"


def step_line(plan: RunPlan) -> str:
    """Return the line about the time of an update."""
    step = plan.step
    parts = step.device | {"host": step.host, "links": step.links, "loader": step.loader}
    shown = ", ".join(f"{name} {1e3 * seconds:,.1f}" for name, seconds in parts.items() if seconds)
    how = "at the same time: device, host, links, loader" if step.on_gpu else "one after the other"
    return (
        f"update: {in_seconds(step.total)} ({shown}; {how}); {BINDS.get(step.binds, step.binds)} binds; "
        f"{plan.tokens_per_second:,.0f} tokens/s, MFU {100 * plan.mfu:.1f} %"
    )


def in_seconds(seconds: float) -> str:
    """Return a time in milliseconds, or in seconds if it is long."""
    return f"{1e3 * seconds:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def run_line(plan: RunPlan, price: float | None) -> str:
    """Return the line about the whole run: days, hours of devices, price, energy, size of a checkpoint."""
    tokens = plan.tokens_share * plan.step.tokens * plan.recipe.run.max_steps
    cost = f", price {price * plan.gpu_hours:,.0f}" if price is not None else ""
    return (
        f"run: {plan.recipe.run.max_steps:,} updates, {tokens / 1e9:,.2f}e9 tokens, {in_days(plan.days)}, {plan.gpu_hours:,.1f} device "
        f"hours{cost}, {plan.kilowatt_hours:,.0f} kWh of the devices alone; a checkpoint has {plan.checkpoint_bytes / 1e9:,.2f} GB"
    )


def interruption_line(plan: RunPlan) -> str:
    """Return the line about interruptions and checkpoints."""
    interval = plan.save_interval_seconds
    steps = max(1, math.ceil(interval / plan.step.total))
    return (
        f"interruptions: {plan.interruptions:,.1f} expected (one in {plan.mtbf_seconds / HOURS:,.0f} h of this cluster); save every "
        f"{interval / 60:,.0f} min (run.save_steps={steps}); saving, repeated work and restarts take "
        f"{100 * plan.lost_seconds / plan.training_seconds:.1f} %"
    )


def in_days(days: float) -> str:
    """Return a time in days, or in hours or minutes if it is short."""
    if days >= 2:
        return f"{days:,.1f} days"
    minutes = 24 * 60 * days
    return f"{24 * days:,.1f} hours" if 24 * days >= 2 else f"{minutes:,.1f} minutes" if minutes >= 1 else f"{60 * minutes:,.1f} seconds"


def choice_lines(plan: RunPlan, ranked: list[RunPlan]) -> Iterator[str]:
    """Yield the best choices and the rank of the asked one, with what to change in the ds_config."""
    yield "fastest layouts on this cluster:" if ranked else "no layout of this recipe fits this cluster with the usual margin of 15 %"
    for number, other in enumerate(ranked[:SHOWN_CHOICES], start=1):
        mark = "  <- as asked" if is_same(plan, other) else ""
        yield f"  {number}. {in_words(other)}{mark}"
    if not any(is_same(plan, other) for other in ranked[:SHOWN_CHOICES]):
        yield f"  as asked: {in_words(plan)}"


def is_same(plan: RunPlan, other: RunPlan) -> bool:
    """True if two plans have the same layout and micro-batch."""
    return layout_of(plan.config) == layout_of(other.config) and plan.config.batch == other.config.batch


def in_words(plan: RunPlan) -> str:
    """Return the layout of a plan with its time and memory."""
    layout, batch = layout_of(plan.config), plan.config.batch
    extras = [f"tensor-parallel {layout.tp_size}"] * (layout.tp_size > 1)
    extras += [f"a copy on each {layout.shard_size * layout.tp_size} ranks"] if layout.shard_size else []
    extras += ["offload"] * layout.offloads + ["activation checkpointing"] * layout.recomputes
    step, days = plan.step, f"{in_days(plan.days)}, " if plan.has_length else ""
    return (
        f"micro {batch.micro_batch_size} x {batch.accumulation_steps}{''.join(f', {extra}' for extra in extras)}: "
        f"{in_seconds(step.total)}, {plan.memory.worst.total / GIB:.1f} GiB, {days}{BINDS.get(step.binds, step.binds)} binds"
    )


def source_lines(plan: RunPlan) -> Iterator[str]:
    """Yield which numbers are measured, tabulated, assumed or given."""
    found = sources_of(plan)
    for kind in ("measured", "given", "tabulated", "assumed"):
        names = [name for name, number in found.items() if number.kind == kind]
        if names:
            yield f"{kind}: {', '.join(names)}"
    yield f"interruptions: {DEVICE_MTBF_HOURS:,.0f} device hours each, and {RESTART_SECONDS:.0f} s to restart; --json has all sources"
