"""The arithmetic of a plan, line by line, for --explain. Torch-free."""

from collections.abc import Iterator

from recipes.plan.links import SENT_PER_BYTE
from recipes.plan.memory import GIB, Groups
from recipes.plan.step import (
    HOST_SECONDS,
    OFFLOAD_GIGABYTES_PER_SECOND,
    OFFLOADED,
    PASSES,
    collective_seconds,
    moved_bytes,
    optimizer_bytes,
)
from recipes.plan.traffic import update_traffic
from recipes.planner.run_plan import RunPlan

MIB = 2**20


def explain_memory(plan: RunPlan) -> Iterator[str]:
    """Yield every part of the memory of a rank, in each phase, with its group and place."""
    for name, phase in zip(("building", "training", "saving"), plan.memory, strict=True):
        yield f"{name}: {phase.total / GIB:.3f} GiB on the device, {phase.host_total / GIB:.3f} on the host"
        yield from _parts(phase.device, "")
        yield from _parts(phase.host, ", on the host")
    yield f"memory of a rank: {plan.device_bytes / GIB:.3f} GiB; what the libraries take for themselves is not counted"


def _parts(groups: Groups, place: str) -> Iterator[str]:
    for group, parts in groups.items():
        for part, size in parts.items():
            yield f"  {size / MIB:12,.2f} MiB  {group}{place}: {part}"


def explain_time(plan: RunPlan) -> Iterator[str]:
    """Yield the arithmetic of an update."""
    recipe, config, cluster, step = plan.recipe, plan.config, plan.cluster, plan.step
    device, batch = cluster.device, config.batch
    rate, bandwidth = cluster.teraflops(config.precision), cluster.memory_gigabytes_per_second
    peak, layers = device.peak(config.precision), recipe.model.num_layers
    flops, moved = step.executed_flops, moved_bytes(recipe, config, plan.on_gpu)
    share = f" / {cluster.gpus} ranks" if device.is_shared else ""
    yield f"model FLOPs of an update, all ranks: {step.model_flops:.4g}; executed by one rank: {flops:.4g}"
    yield f"rate of products: {peak:g} TFLOP/s x efficiency {device.efficiency:.3g}{share} = {rate:.4g} TFLOP/s"
    yield _line("products", step.device["products"], f"{flops:.4g} FLOPs / {rate:.4g}e12")
    forward, backward = PASSES["forward"], PASSES["backward"]
    how = f"{moved:.4g} bytes ({forward:g} for each kept byte and forward, {backward:g} in the backward) / {bandwidth:.4g}e9"
    yield _line("other kernels", step.device["other kernels"], how)
    if OFFLOADED in step.device:
        rates = OFFLOAD_GIGABYTES_PER_SECOND
        yield _line(OFFLOADED, step.device[OFFLOADED], f"at {rates['link']:g} GB/s; the host's AdamW, {rates['memory']:g} GB/s, is in host")
    else:
        how = f"{optimizer_bytes(recipe, config):.4g} bytes of norm, AdamW and EMA / {bandwidth:.4g}e9"
        yield _line("optimizer", step.device["optimizer"], how)
    block = ", ".join(f"{name} {1e3 * seconds:g}" for name, seconds in HOST_SECONDS.items())
    how = f"{layers} blocks x {batch.accumulation_steps} micro-batches, ms of a block: {block}; x {device.host_factor:.3g}"
    yield _line("host", step.host, how)
    for one in update_traffic(recipe, config):
        kind, num_bytes, ranks, _ = one.each
        sent = f"{one.times:.4g} x {kind} of {num_bytes / 1e6:,.3f} MB over {ranks} ranks, {SENT_PER_BYTE[kind]:g} byte sent per byte"
        yield _line(one.name, collective_seconds(cluster, one), sent)
    yield _line("loader", step.loader, f"{1e3 * recipe.data.reading_seconds:.3g} ms a sample and worker process")
    how = "the longest of device, host, links and loader" if step.on_gpu else "device + host + links"
    yield _line("update", step.total, how)


def _line(name: str, seconds: float, how: str) -> str:
    return f"{1e3 * seconds:12,.3f} ms  {name}: {how}"
