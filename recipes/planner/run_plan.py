"""The plan of a run: its memory, time, cost and interruptions on a cluster. Torch-free."""

from dataclasses import dataclass
from functools import cached_property

from recipes.cluster.device_memory import host_memory
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.errors import ConfigError
from recipes.ledger.save_interval import daly_interval
from recipes.plan.fit import MEMORY_SHARE, DeviceMemory
from recipes.plan.links import Cluster
from recipes.plan.memory import MemoryPlan, checkpoint_bytes, memory_plan, saved_elements
from recipes.plan.step import StepPlan, step_plan

DEVICE_MTBF_HOURS = 50_000.0
"""Hours of one GPU between two interruptions of its job. Source: Llama 3 (arXiv 2407.21783, section 3.3.4): 419 unexpected interruptions in
54 days on 16,384 H100."""
COPY_GIGABYTES_PER_SECOND = 10.0
"""Assumed rate at which a rank copies its shards to host memory for a checkpoint, while training waits."""
SAVE_SECONDS = 0.5
"""Assumed time that a save costs beside the copy: all ranks begin it together."""
FILE_GIGABYTES_PER_SECOND = 2.0
"""Assumed rate at which all ranks together write a checkpoint. The next save waits for it."""
RESTART_SECONDS = 300.0
"""Assumed time from an interruption to the next update: the job is queued again, starts, and loads its checkpoint."""
HOST_GIB = 192.0
"""Assumed host memory for each GPU: nodes of eight often have 1.5 to 2 TB."""
HOURS, DAYS = 3600.0, 86400.0


@dataclass(frozen=True)
class RunPlan:
    """A run of a recipe with a ds_config on a cluster, and what follows from them."""

    recipe: Recipe
    config: EngineConfig
    cluster: Cluster
    tokens_share: float = 1.0
    """Share of the positions that are tokens; the rest is padding."""

    @property
    def on_gpu(self) -> bool:
        """True unless the device is a CPU."""
        return not self.cluster.device.is_shared

    @cached_property
    def memory(self) -> MemoryPlan:
        """What a rank needs."""
        return memory_plan(self.recipe, self.config, self.on_gpu)

    @cached_property
    def step(self) -> StepPlan:
        """How long an update takes."""
        return step_plan(self.recipe, self.config, self.cluster)

    @cached_property
    def device_bytes(self) -> int:
        """The memory that a rank has."""
        return device_memory(self.cluster).size

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that a rank with a GPU needs at most."""
        return self.memory.host_total

    @property
    def fits(self) -> bool:
        """True if what a rank needs is at most its memory, and what it needs of the host at most HOST_GIB."""
        return self.memory.worst.total <= self.device_bytes and self.host_bytes <= HOST_GIB * 2**30

    @property
    def fits_well(self) -> bool:
        """True if it also leaves the usual margin for the libraries (MEMORY_SHARE)."""
        return self.fits and self.memory.worst.total <= MEMORY_SHARE * self.device_bytes

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all ranks a second, without padding and prefix tokens."""
        return self.tokens_share * self.step.tokens / self.step.total

    @property
    def mfu(self) -> float:
        """Model FLOPs a second, as a share of the devices' peak in the run's precision."""
        return self.step.model_flops / self.step.total / (self.num_devices * 1e12 * self.cluster.device.peak(self.config.precision))

    @property
    def num_devices(self) -> int:
        """GPUs, or CPUs, which the ranks of a node share."""
        return self.cluster.nodes if self.cluster.device.is_shared else self.cluster.num_ranks

    @property
    def has_length(self) -> bool:
        """True if the recipe says how many updates the run has. In fine-tuning that may follow from the data (finetune.epochs)."""
        return not self.recipe.finetune.epochs

    @property
    def training_seconds(self) -> float:
        """Seconds of all updates, without interruptions."""
        return self.recipe.run.max_steps * self.step.total

    @property
    def mtbf_seconds(self) -> float:
        """Mean seconds between two interruptions of the whole job."""
        return DEVICE_MTBF_HOURS * HOURS / self.num_devices

    @property
    def save_seconds(self) -> float:
        """Seconds for which training waits for a checkpoint: mainly the copy to host memory."""
        copied = 4 * saved_elements(self.recipe, self.config)
        return SAVE_SECONDS + copied / (1e9 * COPY_GIGABYTES_PER_SECOND)

    @property
    def save_interval_seconds(self) -> float:
        """Seconds of work between two checkpoints with the least cost of saving and of repeated work (Daly 2006), but not less than
        writing one takes, nor more than the run."""
        writing = self.checkpoint_bytes / (1e9 * FILE_GIGABYTES_PER_SECOND)
        return min(self.training_seconds, max(daly_interval(self.save_seconds, self.mtbf_seconds), writing))

    @property
    def interruptions(self) -> float:
        """Expected interruptions of the run."""
        return self.training_seconds / self.mtbf_seconds

    @property
    def lost_seconds(self) -> float:
        """Expected seconds of saving, of repeated work and of restarts, with checkpoints at save_interval_seconds."""
        saves = self.training_seconds / self.save_interval_seconds * self.save_seconds
        return saves + self.interruptions * (self.save_interval_seconds / 2 + RESTART_SECONDS)

    @property
    def days(self) -> float:
        """Expected days of the run."""
        return (self.training_seconds + self.lost_seconds) / DAYS

    @property
    def gpu_hours(self) -> float:
        """Expected hours of all devices together."""
        return 24 * self.days * self.num_devices

    @property
    def kilowatt_hours(self) -> float:
        """Energy of the devices at their design power, without hosts and cooling."""
        return self.gpu_hours * self.cluster.device.watts / 1e3

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint on the disk."""
        return checkpoint_bytes(self.recipe)


def device_memory(cluster: Cluster) -> DeviceMemory:
    """Return the memory of a rank: of its GPU, or its part of a CPU's, which is this machine's if --cluster does not say. Raises:
    ConfigError if it is not known."""
    device = cluster.device
    if not device.is_shared:
        return DeviceMemory(device.memory_bytes(), on_gpu=True)
    if device.memory_gib is not None:
        return DeviceMemory(device.memory_bytes(), on_gpu=False)
    total = host_memory()
    if total is None:
        raise ConfigError("--cluster: this machine does not say how much memory it has; give it by memory_gib=N, for one rank")
    return DeviceMemory(total // cluster.gpus, on_gpu=False)
