"""How long an update takes on a cluster, part by part. Torch-free arithmetic from FLOPs, bytes and rates (recipes/plan/devices.py).

The device computes matrix products at its peak rate x its efficiency, and moves the bytes of everything else at the bandwidth of its
memory. On a GPU the host's Python, the device and the gathers of weights work at the same time, so the longest of them counts. On a CPU
they share the cores, so they add up.
"""

from typing import NamedTuple

from model.activations import Storage
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.plan.activations import VALUE_BYTES, activation_bytes, micro_batch_shape
from recipes.plan.devices import DeviceSpec
from recipes.plan.flops import sample_flops
from recipes.plan.links import Cluster
from recipes.plan.size import shard_elements, trained_parameters
from recipes.plan.traffic import Traffic, update_traffic

PASSES = {"forward": 5.5, "backward": 11.0}
"""Bytes that the device's memory moves, in a forward of one network and in the backward, for each byte of activations that a student keeps.
Fitted to updates of text with 256 x 4, 384 x 6 and 512 x 8 channels x layers on two cores (docs/planner.md)."""
OPTIMIZER_BYTES = {"fp32": 44, "bf16": 54, "fp16": 50}
"""Bytes that norm, AdamW and EMA move for each trained weight: they read and write weight, two moments, gradient and teacher, and in a
16-bit precision also the forward's copies of the weights."""
HOST_SECONDS = {"forward": 2.2e-3, "backward": 2.3e-3, "teacher": 0.7e-3, "layer by layer": 2.5e-3, "update": 0.55e-3}
"""Python's time for one block: the student's forward and backward, a teacher's forward, more if the teacher is gathered layer by layer, and
the optimizer's step. A device has a factor on it (recipes/plan/devices.py).
Source: benchmarks/host_time.py, text_base and text_large, two cores of an AMD EPYC (Zen 4), 2026-11-28."""
WORKERS = 8
"""Worker processes of a rank that read samples, if data.num_workers leaves it open."""
OFFLOAD_GIGABYTES_PER_SECOND = {"link": 20.0, "memory": 10.0}
"""Assumed rates of an offloaded optimizer: between a GPU and the host, and of a rank's part of the host's memory."""
SPLIT_PARTS = ("projections", "attention", "feed-forward")
"""Parts of the FLOPs that tensor parallelism splits. Front-end and head are whole on each of its ranks."""
EXPOSED = ("activations of tensor parallelism", "gradients of replicated weights", "gradients of the copies of the model")
"""Traffic that the device waits for. All other traffic runs while it computes."""
OFFLOADED = "gradients to the host, weights back"
Seconds = dict[str, float]


class StepPlan(NamedTuple):
    """Seconds of an update by part, and what each rank computes."""

    device: Seconds
    """What the device does, and what it waits for: some collectives, and the copies of an offloaded optimizer."""
    host: float
    """Python, and an offloaded optimizer."""
    offload: float
    """The part of `host` that is an offloaded optimizer's."""
    links: float
    """Gathers of weights and sums of gradients."""
    loader: float
    """Reading of the samples, by all worker processes of a rank."""
    on_gpu: bool
    executed_flops: float
    """FLOPs that a rank executes in an update, with those of blocks that are computed again, without those that are skipped."""
    model_flops: float
    """Model FLOPs of an update over all ranks (recipes/plan/flops.py)."""
    tokens: int
    """Positions of an update over all ranks, without prefix tokens."""

    @property
    def total(self) -> float:
        """Seconds of an update."""
        device = sum(self.device.values())
        return max(device, self.host, self.links, self.loader) if self.on_gpu else max(device + self.host + self.links, self.loader)

    @property
    def waits(self) -> float:
        """Seconds in which the device waits for links."""
        return sum(seconds for name, seconds in self.device.items() if name in EXPOSED or name == OFFLOADED)

    @property
    def binds(self) -> str:
        """What takes longest: compute (products), memory (the bandwidth of the device's own), host, network or loader."""
        if self.loader == self.total:
            return "loader"
        device = {"compute": self.device["products"], "memory": self.device["other kernels"] + self.device["optimizer"]}
        others = {"host": self.host, "network": self.links}
        if self.on_gpu and sum(self.device.values()) < max(others.values()):
            return max(others, key=lambda name: others[name])
        parts = device | ({"network": self.waits} if self.on_gpu else {"network": self.waits + self.links, "host": self.host})
        return max(parts, key=lambda name: parts[name])


def step_plan(recipe: Recipe, config: EngineConfig, cluster: Cluster) -> StepPlan:
    """Return the estimate of an update of `config.batch` on `cluster`, with samples of the longest length that the recipe's data can have.
    Raises: ConfigError if the device has no peak in the precision of `config`."""
    on_gpu, batch = not cluster.device.is_shared, config.batch
    flops, traffic = executed_flops(recipe, config), update_traffic(recipe, config)
    bandwidth = 1e9 * cluster.memory_gigabytes_per_second
    device = {
        "products": flops / (1e12 * cluster.teraflops(config.precision)),
        "other kernels": moved_bytes(recipe, config, on_gpu) / bandwidth,
        "optimizer": 0.0 if _offloads(config, on_gpu) else optimizer_bytes(recipe, config) / bandwidth,
    }
    if _offloads(config, on_gpu):
        device[OFFLOADED] = offload_seconds(recipe, config)["link"]
    device |= {one.name: collective_seconds(cluster, one) for one in traffic if one.name in EXPOSED}
    links = sum(collective_seconds(cluster, one) for one in traffic if one.name not in EXPOSED)
    workers = max(1, WORKERS if recipe.data.num_workers is None else recipe.data.num_workers)
    reading = batch.micro_batch_size * batch.accumulation_steps * recipe.data.reading_seconds / workers
    model_flops = recipe.run.global_batch_size * sum(sample_flops(recipe).values())
    tokens = recipe.run.global_batch_size * micro_batch_shape(recipe, batch.micro_batch_size).own
    offload = offload_seconds(recipe, config)["memory"] if _offloads(config, on_gpu) else 0.0
    host = host_seconds(recipe, config, cluster.device) + offload
    return StepPlan(device, host, offload, links, reading, on_gpu, flops, model_flops, tokens)


def _offloads(config: EngineConfig, on_gpu: bool) -> bool:
    return on_gpu and config.offloads_optimizer


def collective_seconds(cluster: Cluster, one: Traffic) -> float:
    """Return the seconds of equal collectives in an update."""
    return one.times * cluster.seconds(one.each)


def executed_flops(recipe: Recipe, config: EngineConfig) -> float:
    """Return the FLOPs that one rank executes in an update. The student's last block computes at the positions that the loss reads."""
    batch, model, objective = config.batch, recipe.model, recipe.objective
    share = objective.mean_block_share(recipe, micro_batch_shape(recipe, batch.micro_batch_size))
    found = 0.0
    for name, flops in sample_flops(recipe).items():
        part = name.removeprefix("teacher ").removesuffix(" backward")
        is_split, is_teacher, is_backward = part in SPLIT_PARTS, name.startswith("teacher "), name.endswith(" backward")
        if is_split and not is_teacher:
            flops *= 1 - _skipped(part, share) / model.num_layers
            if config.recomputes_activations and not is_backward and objective.trains("trunk"):
                flops *= 2
        found += flops / (batch.tp_size if is_split else 1)
    return found * batch.micro_batch_size * batch.accumulation_steps


def _skipped(part: str, share: float) -> float:
    """Return the share of a block's FLOPs that its `part` leaves out if it computes its output at a `share` of the positions. Queries, keys
    and values, three quarters of the projections, are computed at all; so is the attention."""
    return {"projections": 0.25, "attention": 0.0, "feed-forward": 1.0}[part] * (1 - share)


def moved_bytes(recipe: Recipe, config: EngineConfig, on_gpu: bool) -> float:
    """Return the bytes that one rank's memory moves in an update for everything but matrix products and the optimizer."""
    batch, objective = config.batch, recipe.objective
    storage = Storage(VALUE_BYTES[config.precision], on_gpu, batch.tp_size)
    kept = sum(activation_bytes(recipe, storage, batch.micro_batch_size, as_trained=True).kept.values())
    forwards = 1 + objective.num_teachers + (config.recomputes_activations and objective.trains("trunk"))
    return batch.accumulation_steps * kept * (forwards * PASSES["forward"] + PASSES["backward"] * objective.trains("trunk"))


def optimizer_bytes(recipe: Recipe, config: EngineConfig) -> float:
    """Return the bytes that one rank's memory moves in an update for gradient norm, AdamW and EMA."""
    return shard_elements(trained_parameters(recipe), config.batch) * float(OPTIMIZER_BYTES[config.precision])


def offload_seconds(recipe: Recipe, config: EngineConfig) -> Seconds:
    """Return the seconds of an offloaded optimizer: of gradients and weights on the link to the host, and of the host's memory."""
    sent = (4 + 2 * VALUE_BYTES[config.precision]) * shard_elements(trained_parameters(recipe), config.batch)
    moved = {"link": float(sent), "memory": optimizer_bytes(recipe, config)}
    return {name: size / (1e9 * OFFLOAD_GIGABYTES_PER_SECOND[name]) for name, size in moved.items()}


def host_seconds(recipe: Recipe, config: EngineConfig, device: DeviceSpec) -> float:
    """Return the seconds of Python in an update."""
    objective, parts = recipe.objective, HOST_SECONDS
    backward = (parts["backward"] + parts["forward"] * config.recomputes_activations) * objective.trains("trunk")
    teacher = objective.num_teachers * (parts["teacher"] + parts["layer by layer"] * (not config.gathers_once))
    block = config.batch.accumulation_steps * (parts["forward"] + backward + teacher) + parts["update"]
    return recipe.model.num_layers * block * device.host_factor
