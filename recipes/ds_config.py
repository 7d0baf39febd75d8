"""How it runs: a ds_configs/*.json, checked against the recipe and the world and filled in for DeepSpeed. Torch-free.

What is learned stays in the recipe: a number that the recipe owns may stand here only as "auto".
"""

import copy
import difflib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.errors import ConfigError

LARGEST_AUTO_MICRO_BATCH = 16

OWNED_BY_RECIPE = {
    "train_batch_size": "run.global_batch_size",
    "gradient_clipping": "optim.clip_norm",
    "optimizer.params.lr": "optim.lr",
    "optimizer.params.betas": "optim.betas",
    "optimizer.params.eps": "optim.eps",
    "optimizer.params.weight_decay": "optim.weight_decay",
}

TOP_LEVEL_KEYS = {
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "optimizer"),
    *("zero_optimization", "bf16", "fp16", "megatron", "scheduler", "communication_data_type", "data_types"),
    *("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"),
}

TESTED_ZERO_KEYS = {
    *("stage", "offload_optimizer", "overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "sub_group_size"),
    *("stage3_prefetch_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance"),
    *("memory_efficient_linear", "round_robin_gradients"),
}

SECTION_KEYS = {
    "optimizer": {"type", "params"},
    "optimizer.params": {"lr", "betas", "eps", "weight_decay"},
    "bf16": {"enabled", "check_grad_overflow", "immediate_grad_update"},
    "fp16": {"enabled", "loss_scale", "initial_scale_power", "loss_scale_window", "hysteresis", "consecutive_hysteresis", "min_loss_scale"},
    "zero_optimization": TESTED_ZERO_KEYS,
    "zero_optimization.offload_optimizer": {"device", "pin_memory", "buffer_count", "fast_init"},
    "megatron": {"tensor_model_parallel_size", "across_nodes"},
}

OPTIMIZER_TYPES = ("AdamW",)


@dataclass(frozen=True)
class BatchPlan:
    """How one global batch is cut: samples = dp_size * micro_batch_size * accumulation_steps."""

    world_size: int
    tp_size: int
    dp_size: int
    micro_batch_size: int
    accumulation_steps: int
    tp_across_nodes: bool = False
    """Whether a tensor-parallel group may lie on several nodes."""


@dataclass(frozen=True)
class EngineConfig:
    """A ds_config resolved for one recipe and one world."""

    path: str
    deepspeed: dict[str, Any]
    """What DeepSpeed reads: no "auto" left, our own section taken out."""
    batch: BatchPlan

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16: the dtype of forward and backward."""
        for name in ("bf16", "fp16"):
            if self.deepspeed.get(name, {}).get("enabled", False):
                return name
        return "fp32"

    @property
    def offloads_optimizer(self) -> bool:
        """Whether master weights and moments live in host memory."""
        return self.deepspeed["zero_optimization"].get("offload_optimizer", {}).get("device", "none") != "none"


def load_ds_config(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises: ConfigError if it is missing, unreadable or not JSON (with line and column)."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--deepspeed_config {path}: {error.strerror}; the shipped ones are in ds_configs/") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); point --deepspeed_config at a JSON file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, must be a JSON object {{...}}")
    return content


def resolve(recipe: Recipe, content: dict[str, Any], path: str, world_size: int, local_size: int | None = None) -> EngineConfig:
    """Check `content` against recipe and world and fill in every "auto". `local_size`: ranks on a node, where it is known.

    Raises: ConfigError for an unknown key, a number that the recipe owns, an untested ZeRO setting, or sizes that do not divide.
    """
    content = copy.deepcopy(content)
    _check_keys(content, path)
    _check_ownership(content, path)
    _check_sections(content, path)
    _check_zero(content, path)
    tp_size = _tensor_parallel_size(content, path)
    across_nodes = _across_nodes(content, path)
    _check_topology(recipe, tp_size, world_size)
    if local_size is not None and world_size > local_size and not across_nodes:
        _check_nodes(tp_size, local_size)
    batch = plan_batch(recipe, content.get("train_micro_batch_size_per_gpu", "auto"), tp_size, world_size)
    batch = replace(batch, tp_across_nodes=across_nodes)
    optimizer_type = content.get("optimizer", {}).get("type", "AdamW")
    if optimizer_type not in OPTIMIZER_TYPES:
        raise ConfigError(f"{path}: optimizer.type {optimizer_type!r} is not tested here; use {' or '.join(OPTIMIZER_TYPES)}")
    for key in ("optimizer", "megatron", "scheduler"):
        content.pop(key, None)
    content.update(
        train_micro_batch_size_per_gpu=batch.micro_batch_size,
        gradient_accumulation_steps=batch.accumulation_steps,
        train_batch_size=recipe.run.global_batch_size,
        gradient_clipping=recipe.optim.clip_norm,
        zero_allow_untested_optimizer=True,  # our optimizer is torch's fused AdamW
    )
    content.setdefault("steps_per_print", 2**31)  # our own log lines replace DeepSpeed's
    content["zero_optimization"].setdefault("memory_efficient_linear", False)  # plain F.linear: no autograd detour
    return EngineConfig(path, content, batch)


def plan_batch(recipe: Recipe, micro: int | str, tp_size: int, world_size: int) -> BatchPlan:
    """Derive accumulation from global batch, micro batch and data-parallel size.

    Raises: ConfigError naming the sizes that would divide.
    """
    total, dp_size = recipe.run.global_batch_size, world_size // tp_size
    if total % dp_size:
        near = _multiples_around(total, math.lcm(dp_size, recipe.data.group_size))
        raise ConfigError(
            f"run.global_batch_size {total} is not a multiple of the data-parallel size {dp_size} ({world_size} ranks / tensor-parallel "
            f"size {tp_size}); use {' or '.join(f'--set run.global_batch_size={n}' for n in near)}"
        )
    share, group = total // dp_size, recipe.data.group_size
    whole = share if group == 1 else math.gcd(share, group)  # a micro-batch lies within one group
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    if micro == "auto":
        micro = max(n for n in divisors if n <= LARGEST_AUTO_MICRO_BATCH)
    if not isinstance(micro, int) or isinstance(micro, bool) or micro < 1:
        raise ConfigError(f'train_micro_batch_size_per_gpu is {micro!r}; write a positive integer or "auto"')
    if share % micro:
        step = micro * dp_size
        near = _multiples_around(total, math.lcm(step, group))
        micros = sorted(divisors, key=lambda n: abs(math.log(n / micro)))[:2]
        raise ConfigError(
            f"run.global_batch_size {total} is not a multiple of micro {micro} x dp {dp_size} = {step}; use "
            f"{' or '.join(map(str, near))}, or set train_micro_batch_size_per_gpu to {' or '.join(map(str, sorted(micros)))}"
        )
    if micro not in divisors:
        raise ConfigError(
            f"train_micro_batch_size_per_gpu {micro} does not divide data.group_size {group}, whose samples share one crop length; "
            f"set it to {' or '.join(map(str, divisors[-2:]))}, or --set data.group_size={micro}"
        )
    return BatchPlan(world_size, tp_size, dp_size, micro, share // micro)


def _multiples_around(total: int, step: int) -> list[int]:
    """The multiples of `step` next to `total`, without 0."""
    return sorted({total // step * step, (total // step + 1) * step} - {0})


def _check_keys(content: dict[str, Any], path: str) -> None:
    if "tensor_parallel" in content:
        raise ConfigError(
            f'{path}: DeepSpeed\'s own "tensor_parallel" section is not used here; write "megatron": {{"tensor_model_parallel_size": N}}'
        )
    for key in content:
        if key not in TOP_LEVEL_KEYS:
            near = difflib.get_close_matches(key, TOP_LEVEL_KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(TOP_LEVEL_KEYS))}"
            raise ConfigError(f"{path}: key {key!r} is unknown or not tested here; {hint}")


def _check_ownership(content: dict[str, Any], path: str) -> None:
    if content.get("scheduler", "auto") != "auto":
        raise ConfigError(
            f"{path}: scheduler belongs to the recipe; remove it and use --set optim.schedule=cosine --set optim.warmup_steps=N"
        )
    if content.get("gradient_accumulation_steps", "auto") != "auto":
        raise ConfigError(
            f"{path}: gradient_accumulation_steps is derived from run.global_batch_size, micro batch and ranks; remove it "
            "(--set run.global_batch_size=N changes it)"
        )
    for dotted, owner in OWNED_BY_RECIPE.items():
        value = _at(content, dotted, "auto")
        if value != "auto":
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            raise ConfigError(f'{path}: {dotted} {value} belongs to the recipe; write "auto" here and --set {owner}={text}')


def _check_sections(content: dict[str, Any], path: str) -> None:
    """Each section is an object of known keys whose values DeepSpeed's own check would take."""
    for name, known in SECTION_KEYS.items():
        section = _at(content, name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: {name} is {json.dumps(section)}, must be a JSON object {{...}}")
        for key, value in section.items():
            dotted = f"{name}.{key}"
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"remove it, known are {', '.join(sorted(known))}"
                raise ConfigError(f"{path}: {dotted} is not covered by our tests; {hint}")
            if value == "auto" and dotted not in OWNED_BY_RECIPE:
                raise ConfigError(f'{path}: {dotted} is "auto", which only a recipe\'s number may be; remove it for the default')
            if isinstance(value, str) and dotted not in (*OWNED_BY_RECIPE, "optimizer.type", "zero_optimization.offload_optimizer.device"):
                raise ConfigError(f"{path}: {dotted} is {json.dumps(value)}, must be a number, true or false")
    if all(_at(content, f"{name}.enabled", False) for name in ("bf16", "fp16")):
        raise ConfigError(f"{path}: bf16 and fp16 are both enabled; enable one")


def _at(content: dict[str, Any], dotted: str, default: Any) -> Any:
    """The value under a dotted name."""
    value: Any = content
    for part in dotted.split("."):
        value = value.get(part, default) if isinstance(value, dict) else default
    return value


def _check_zero(content: dict[str, Any], path: str) -> None:
    zero = content.setdefault("zero_optimization", {"stage": 3})
    stage = zero.setdefault("stage", 3)
    if stage != 3:
        raise ConfigError(f"{path}: zero_optimization.stage {json.dumps(stage)} is not supported; the sharded teacher needs stage 3")
    device = _at(zero, "offload_optimizer.device", "none")
    if device not in ("cpu", "none"):
        raise ConfigError(
            f'{path}: zero_optimization.offload_optimizer.device {json.dumps(device)} is not tested here; use "cpu" or "none"'
        )


def _tensor_parallel_size(content: dict[str, Any], path: str) -> int:
    size = content.get("megatron", {}).get("tensor_model_parallel_size", 1)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"{path}: megatron.tensor_model_parallel_size is {size!r}; write a positive integer")
    return size


def _across_nodes(content: dict[str, Any], path: str) -> bool:
    value = content.get("megatron", {}).get("across_nodes", False)
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: megatron.across_nodes is {json.dumps(value)}; write true or false")
    return value


def _check_nodes(tp_size: int, local_size: int) -> None:
    if local_size % tp_size:
        fits = [n for n in range(1, local_size + 1) if local_size % n == 0]
        raise ConfigError(
            f"tensor_model_parallel_size {tp_size} does not fit into a node of {local_size} ranks, so every layer would wait for the "
            f'network; use {" or ".join(map(str, fits[-2:]))}, or ask for it with "megatron": {{"across_nodes": true}}'
        )


def _check_topology(recipe: Recipe, tp_size: int, world_size: int) -> None:
    if world_size % tp_size:
        raise ConfigError(
            f"{world_size} ranks are not a multiple of tensor_model_parallel_size {tp_size}; "
            f"start {-(-world_size // tp_size) * tp_size} ranks"
        )
    heads, inner = recipe.model.num_attention_heads, recipe.model.ffn_hidden_size
    if heads % tp_size:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ConfigError(
            f"model.num_attention_heads {heads} is not a multiple of tensor_model_parallel_size {tp_size}; "
            f"it divides by {', '.join(map(str, fits))}"
        )
    for name, size in {"model.ffn_hidden_size": inner, **recipe.frontend.split_sizes()}.items():
        if size % tp_size:
            raise ConfigError(
                f"{name} {size} is not a multiple of tensor_model_parallel_size {tp_size}; use another TP size, such as 2 or 4"
            )
