"""How a recipe runs: a ds_configs/*.json, checked against the recipe and the number of ranks, and completed for DeepSpeed. Torch-free.

What is learned is in the recipe: a number that the recipe owns may only be "auto" in a ds_config.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.config import ProductLibrary
from recipes.config import Recipe
from recipes.ds_keys import checked
from recipes.errors import ConfigError
from recipes.system.json_object import read_json_object
from recipes.topology import check_nodes, check_tensor_parallel, number_of_replicas

SHIPPED = Path(__file__).resolve().parents[1] / "ds_configs"
LARGEST_AUTO_MICRO_BATCH = 16
"""Most samples of an automatic micro-batch where the memory of the device is not considered. On a CPU larger ones gain nothing: its
products run at their full rate from a few samples on, and larger activations leave its caches."""
GATHERS_ONCE = {"update": True, "layer": False, "auto": None}
"""megatron.teacher_gather -> EngineConfig.gathers_once."""


@dataclass(frozen=True)
class BatchPlan:
    """How one update's samples are split: global batch = dp_size * micro_batch_size * accumulation_steps. dp_size = world_size /
    tp_size."""

    world_size: int
    tp_size: int
    dp_size: int
    micro_batch_size: int
    accumulation_steps: int
    may_cross_nodes: bool = False
    """True if a tensor-parallel group or a copy of the model may span several nodes."""
    num_replicas: int = 1
    """Copies of the model. Each is sharded over shard_size data-parallel ranks."""

    @property
    def shard_size(self) -> int:
        """Data-parallel ranks over which one copy of the model is sharded."""
        return self.dp_size // self.num_replicas


@dataclass(frozen=True)
class EngineConfig:
    """A ds_config, completed for one recipe and one number of ranks: each "auto" has its value."""

    path: str
    deepspeed: dict[str, Any]
    """The dict for DeepSpeed: every "auto" is replaced, and this project's own section is removed."""
    batch: BatchPlan
    recomputes_activations: bool = False
    """True if the backward runs the Transformer blocks again instead of reading their stored activations."""
    products: ProductLibrary = "mm"
    """The library that computes the products of all linear layers."""
    has_auto_micro_batch: bool = False
    """True if the ds_config leaves the size of the micro-batch open ("auto")."""
    gathers_once: bool | None = None
    """True if a network that is not trained is gathered whole, once per update, and not layer by layer. None: recipes/plan/gather.py has
    not chosen yet."""
    largest_micro_batch: int | None = None
    """Samples of the largest micro-batch that fits this rank's memory by the estimate (recipes/plan/fit.py); None: not estimated."""

    @property
    def precision(self) -> str:
        """The type in which forward and backward compute: "fp32", "bf16" or "fp16"."""
        for name in ("bf16", "fp16"):
            if self.deepspeed.get(name, {}).get("enabled", False):
                return name
        return "fp32"

    @property
    def leaf_modules(self) -> dict[str, list[str]]:
        """Names of modules that ZeRO-3 gathers as a whole, by the kind of name: "classes", "names" or "name_suffixes"."""
        return self.deepspeed["zero_optimization"].get("leaf_module", {})

    @property
    def offloads_optimizer(self) -> bool:
        """True if the float32 weights and the optimizer's moments are in host memory."""
        return self.deepspeed["zero_optimization"].get("offload_optimizer", {}).get("device", "none") != "none"


def find_ds_config(path: Path) -> Path:
    """Return the file that --deepspeed_config names: `path` itself if there is such a file. Else, for a bare name such as zero3_bf16,
    the file of that name in ds_configs/, if there is one; otherwise `path`."""
    shipped = SHIPPED / f"{path.name.removesuffix('.json')}.json"
    is_bare = path.parent in (Path(), Path(SHIPPED.name))
    return shipped if is_bare and not path.is_file() and shipped.is_file() else path


def load_ds_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path` without comments, which are keys that begin with _ or //.

    Raises: ConfigError if the file is missing, unreadable, not JSON (with line and column), nested too deeply, or has a key twice.
    """
    names = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.json")))
    return read_json_object(path, flag="--deepspeed_config ", what="a ds_config", where=f"the shipped ones are in ds_configs/: {names}")


def resolve(recipe: Recipe, content: dict[str, Any], path: str, world_size: int, local_size: int | None = None) -> EngineConfig:
    """Check the ds_config `content` against the recipe and the number of ranks, and replace every "auto". `path` is its name in
    messages. `local_size`: ranks per node, if known.

    Raises: ConfigError for an unknown key, a value of the wrong type or range, a number that the recipe owns, or sizes that do not
    divide.
    """
    content, complaints = checked(content)
    if complaints:
        raise ConfigError(f"{path}: {'; and '.join(complaints)}")
    if all(content.get(name, {}).get("enabled", False) for name in ("bf16", "fp16")):
        raise ConfigError(f"{path}: bf16 and fp16 are both enabled; enable one")
    megatron = content.get("megatron", {})
    tp_size, across_nodes = megatron.get("tensor_model_parallel_size", 1), megatron.get("across_nodes", False)
    check_tensor_parallel(recipe, tp_size, world_size)
    num_replicas = number_of_replicas(content, world_size // tp_size)
    if local_size is not None and world_size > local_size and not across_nodes:
        check_nodes("tensor_model_parallel_size", tp_size, local_size)
        if num_replicas > 1:
            check_nodes("megatron.shard_size", megatron["shard_size"], local_size, tp_size)
    micro = content.get("train_micro_batch_size_per_gpu", "auto")
    batch = replace(plan_batch(recipe, micro, tp_size, world_size), may_cross_nodes=across_nodes, num_replicas=num_replicas)
    recomputes = content.get("activation_checkpointing", {}).get("enabled", False)
    gathers_once = GATHERS_ONCE[megatron.get("teacher_gather", "auto")]
    deepspeed = _for_deepspeed(recipe, content, batch)
    return EngineConfig(path, deepspeed, batch, recomputes, has_auto_micro_batch=micro == "auto", gathers_once=gathers_once)


def with_micro_batch(recipe: Recipe, config: EngineConfig, micro: int) -> EngineConfig:
    """Return the same configuration with micro-batches of `micro` samples. Raises: ConfigError if that does not divide."""
    before = config.batch
    batch = plan_batch(recipe, micro, before.tp_size, before.world_size)
    batch = replace(before, micro_batch_size=batch.micro_batch_size, accumulation_steps=batch.accumulation_steps)
    sizes = {"train_micro_batch_size_per_gpu": batch.micro_batch_size, "gradient_accumulation_steps": batch.accumulation_steps}
    return replace(config, batch=batch, deepspeed=config.deepspeed | sizes)


def possible_micro_batches(recipe: Recipe, dp_size: int) -> list[int]:
    """Return the sizes that a micro-batch may have on `dp_size` data-parallel ranks, ascending."""
    return _micro_batches(recipe.run.global_batch_size // dp_size, recipe.data.group_size, recipe.data.has_whole_groups)


def _for_deepspeed(recipe: Recipe, content: dict[str, Any], batch: BatchPlan) -> dict[str, Any]:
    ours = {key: value for key, value in content.items() if key not in ("optimizer", "megatron", "activation_checkpointing")}
    zero = {"stage": 3, "memory_efficient_linear": False} | content.get("zero_optimization", {})  # plain F.linear: no autograd detour
    if content.get("bf16", {}).get("enabled", False):
        # In bf16 a sum of 128 micro-batches would be wrong by about 0.7 %.
        ours["data_types"] = {"grad_accum_dtype": "fp32"} | content.get("data_types", {})
    off = [name for name in ("offload_optimizer", "offload_param") if zero.get(name, {}).get("device", "none") == "none"]
    return ours | {
        "zero_optimization": {key: value for key, value in zero.items() if key not in off},
        "train_micro_batch_size_per_gpu": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.accumulation_steps,
        "train_batch_size": recipe.run.global_batch_size,
        "gradient_clipping": recipe.optim.clip_norm,
        "zero_allow_untested_optimizer": True,  # our optimizer is torch's fused AdamW
        "steps_per_print": 2**31,  # our own log lines replace DeepSpeed's
    }


def plan_batch(recipe: Recipe, micro: int | str, tp_size: int, world_size: int) -> BatchPlan:
    """Return how the global batch is split over `world_size` ranks into micro-batches of `micro` samples. "auto": the largest size, at
    most 16, that divides each rank's samples and fits groups of data.group_size samples. Device memory is not considered;
    recipes/plan/fit.py does.

    Raises: ConfigError with sizes that would divide.
    """
    total, dp_size = recipe.run.global_batch_size, world_size // tp_size
    group, has_whole = recipe.data.group_size, recipe.data.has_whole_groups
    rank_step = dp_size * group if has_whole else dp_size
    if total % rank_step:
        near = _multiples_around(total, math.lcm(rank_step, group))
        groups = f" x {group} samples that are mixed with each other" if has_whole and group > 1 else ""
        raise ConfigError(
            f"run.global_batch_size {total} is not a multiple of the data-parallel size {dp_size} ({world_size} ranks / tensor-parallel "
            f"size {tp_size}){groups}; use {' or '.join(f'--set run.global_batch_size={n}' for n in near)}"
        )
    share = total // dp_size
    divisors = _micro_batches(share, group, has_whole)
    if micro == "auto":
        micro = max(n for n in divisors if n <= LARGEST_AUTO_MICRO_BATCH)
    assert isinstance(micro, int)
    if share % micro:
        step = micro * dp_size
        near = _multiples_around(total, math.lcm(step, rank_step, group))
        micros = sorted(divisors, key=lambda n: abs(math.log(n / micro)))[:2]
        raise ConfigError(
            f"run.global_batch_size {total} is not a multiple of micro {micro} x dp {dp_size} = {step}; use "
            f"{' or '.join(map(str, near))}, or set train_micro_batch_size_per_gpu to {' or '.join(map(str, sorted(micros)))}"
        )
    if micro not in divisors:
        raise ConfigError(_group_complaint(micro, group, divisors, has_whole))
    return BatchPlan(world_size, tp_size, dp_size, micro, share // micro)


def _micro_batches(share: int, group: int, has_whole_groups: bool) -> list[int]:
    """Return the possible sizes of a micro-batch, ascending. `share`: samples of a rank in an update. See DataConfig.has_whole_groups."""
    if has_whole_groups:
        return [n for n in range(group, share + 1, group) if share % n == 0]
    whole = share if group == 1 else math.gcd(share, group)
    return [n for n in range(1, whole + 1) if whole % n == 0]


def _group_complaint(micro: int, group: int, divisors: list[int], has_whole_groups: bool) -> str:
    if has_whole_groups:
        near = sorted(sorted(divisors, key=lambda n: abs(math.log(n / micro)))[:2])
        return (
            f"train_micro_batch_size_per_gpu {micro} is not a multiple of data.group_size {group}, whose samples are mixed with each "
            f"other; set it to {' or '.join(map(str, near))}, or do not mix: --set data.mixup_alpha=0 --set data.cutmix_alpha=0"
        )
    return (
        f"train_micro_batch_size_per_gpu {micro} does not divide data.group_size {group}, whose samples share one crop length; "
        f"set it to {' or '.join(map(str, divisors[-2:]))}, or --set data.group_size={micro}"
    )


def _multiples_around(total: int, step: int) -> list[int]:
    """Return two multiples of `step`: the largest that is not above `total`, and the next one. 0 is left out."""
    return sorted({total // step * step, (total // step + 1) * step} - {0})
