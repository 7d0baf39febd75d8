"""Every tested key of a ds_config with type, range, default and meaning, and other keys that people paste, each with the remedy.
Torch-free. What the values mean for a recipe and a number of ranks: recipes/ds_config.py."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model.bounds import LARGEST_INTEGER, is_finite
from recipes.suggestions import close_matches


@dataclass(frozen=True)
class Key:
    """What is allowed for one key of a ds_config, which recipe setting owns it (if any), and its documentation."""

    what: str
    """The allowed values in words that follow "must be"."""
    fits: Callable[[Any], bool]
    owner: str | None = None
    """The recipe's setting that holds this number. Only "auto" is allowed here then."""
    default: str = ""
    """Value of a key that is left out, as JSON; "" for a section."""
    meaning: str = ""
    """What the value changes, for docs/settings.md and --help-set."""

    def about(self, default: str, meaning: str) -> "Key":
        """Return a copy of this key with its default, as JSON, and its meaning."""
        return replace(self, default=default, meaning=meaning)

    @property
    def is_section(self) -> bool:
        """True if the value is an object of further keys."""
        return self.what == SECTION.what

    def complaint(self, dotted: str, value: Any) -> str | None:
        """Return what is wrong with `value`, and the remedy; None if it is valid. `dotted` is the key's name in the message."""
        if self.owner and value != "auto":
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            return f'{dotted} {value} belongs to the recipe; write "auto" here and --set {self.owner}={text}'
        return None if self.owner or self.fits(value) else f"{dotted} is {json.dumps(value)}, must be {self.what}"


def _whole(least: int, most: int = LARGEST_INTEGER) -> Key:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and least <= value <= most and value == int(value)

    return Key(f"a whole number of at least {least}" if most == LARGEST_INTEGER else f"a whole number from {least} to {most}", fits)


def _word(*words: str) -> Key:
    return Key(" or ".join(f'"{word}"' for word in words), lambda value: value in words)


def _owned(setting: str, meaning: str) -> Key:
    return Key('"auto"', lambda value: value == "auto", setting, '"auto"', meaning)


SECTION = Key("a JSON object {...}", lambda value: isinstance(value, dict))
FLAG = Key("true or false", lambda value: isinstance(value, bool))
TRUE = Key("true: weight decay is decoupled here", lambda value: value is True)
SCALE = Key("a number from 0 to 1.8e308", lambda value: type(value) in (int, float) and is_finite(value) and value >= 0)
STAGE = Key("3: the sharded teacher needs ZeRO stage 3, others are not supported", lambda value: value == 3 and type(value) is int)
ADAMW = Key('"AdamW", which alone is tested here', lambda value: str(value).lower() in ("adamw", "adam"))
NAMES = Key(
    "a list of names in quotes", lambda value: isinstance(value, list) and value != [] and all(isinstance(n, str) and n for n in value)
)
DTYPES = _word("fp32", "bf16", "fp16")
LARGEST_BUCKET = 2**31 - 1
"""Elements of a buffer that is allocated as a whole: 8 GiB in fp32."""

_TOP = {
    "train_batch_size": _owned("run.global_batch_size", "Samples of one update."),
    "train_micro_batch_size_per_gpu": Key('a positive whole number or "auto"', _whole(1, 2**20).fits).about(
        '"auto"',
        'Samples of one forward on one rank. "auto": the largest divisor of the rank\'s share that fits its GPU; on a CPU at most 16.',
    ),
    "gradient_clipping": _owned("optim.clip_norm", "Largest global gradient norm."),
    "communication_data_type": DTYPES.about("the dtype of the forward", "Dtype in which gradients are reduced."),
    "data_types": SECTION.about("", "Dtypes."),
    "data_types.grad_accum_dtype": DTYPES.about(
        "fp32 with bf16, else the dtype of the forward", "Dtype in which gradients of micro-batches are summed."
    ),
    "zero_allow_untested_optimizer": FLAG.about("true", "Always true here: the optimizer is torch's fused AdamW."),
    "zero_force_ds_cpu_optimizer": FLAG.about("true", "Has no effect here: an offloaded optimizer is DeepSpeed's CPUAdam."),
}
_OPTIMIZER = {
    "optimizer": SECTION.about("", "Implementation of the optimizer. Its numbers belong to the recipe."),
    "optimizer.type": ADAMW.about('"AdamW"', "Kind of optimizer; torch's fused AdamW, or DeepSpeed's CPUAdam if it is offloaded."),
    "optimizer.params": SECTION.about("", "Numbers of the optimizer."),
    "optimizer.params.lr": _owned("optim.lr", "Learning rate."),
    "optimizer.params.betas": _owned("optim.betas", "Decay rates of the moment estimates."),
    "optimizer.params.eps": _owned("optim.eps", "Epsilon."),
    "optimizer.params.weight_decay": _owned("optim.weight_decay", "Decoupled weight decay."),
    "optimizer.params.adam_w_mode": TRUE.about("true", "Decoupled weight decay; nothing else is possible here."),
    "optimizer.params.torch_adam": FLAG.about("true", "Has no effect here: the implementation follows from offload_optimizer."),
}
_ZERO = {
    "": SECTION.about("", "Sharding of weights, gradients and optimizer states over the data-parallel ranks."),
    "stage": STAGE.about("3", "What is sharded. Stage 3 shards everything."),
    "offload_optimizer": SECTION.about("", "Place of fp32 weights and moments."),
    "offload_optimizer.device": _word("cpu", "none").about(
        '"none"', "cpu: fp32 weights and moments lie in host memory, and it updates them."
    ),
    "offload_optimizer.pin_memory": FLAG.about("true", "Use page-locked host memory, which copies faster."),
    "offload_optimizer.buffer_count": _whole(1, 1024).about("4", "Buffers of the copies to the host."),
    "offload_optimizer.fast_init": FLAG.about("false", "DeepSpeed's fast initialisation for offload."),
    "offload_param": SECTION.about("", "Place of the weights that forward and backward use. Only the device is supported."),
    "offload_param.device": _word("none").about('"none"', "Weights stay on the device."),
    "offload_param.pin_memory": FLAG.about("true", "Has no effect, since weights are not offloaded."),
    "overlap_comm": FLAG.about("true", "Reduce gradients while the backward goes on."),
    "contiguous_gradients": FLAG.about("true", "Copy gradients to one buffer as they appear, against fragmentation."),
    "reduce_scatter": FLAG.about("true", "Reduce gradients by reduce-scatter rather than all-reduce."),
    "reduce_bucket_size": _whole(1, LARGEST_BUCKET).about("500000000", "Elements reduced at a time. Fewer need less memory."),
    "sub_group_size": _whole(0).about("1000000000", "Elements that the optimizer updates at a time."),
    "stage3_prefetch_bucket_size": _whole(0).about("50000000", "Elements gathered ahead of their use."),
    "stage3_param_persistence_threshold": _whole(0).about("100000", "Parameters with fewer elements stay gathered on every rank."),
    "stage3_max_live_parameters": _whole(0).about("1000000000", "Most gathered elements at a time on a rank."),
    "stage3_use_all_reduce_for_fetch_params": FLAG.about(
        "false", "Gather weights by an all-reduce. Takes less time with gloo on CPUs, and sends twice the bytes."
    ),
    "stage3_max_reuse_distance": _whole(0).about("1000000000", "A parameter stays gathered if it is used again within as many elements."),
    "stage3_module_granularity_threshold": _whole(0).about(
        "0", "Modules with fewer elements per submodule become leaf modules. 0: none. leaf_module names them one by one."
    ),
    "leaf_module": SECTION.about("", "Modules that are gathered and reduced as a whole, such as a Transformer block. Saves host time."),
    "leaf_module.classes": NAMES.about("[]", 'Names of classes. ["Block"]: each Transformer block.'),
    "leaf_module.names": NAMES.about("[]", "Names of modules, such as trunk.encoder.layers.0."),
    "leaf_module.name_suffixes": NAMES.about("[]", "Ends of names of modules."),
    "memory_efficient_linear": FLAG.about("false", "Use DeepSpeed's linear function instead of torch's."),
    "round_robin_gradients": FLAG.about("false", "Spread the copies of gradients to the host over the ranks."),
}
_PRECISION = {
    "bf16": SECTION.about("", "bfloat16 for forward and backward; weights of the optimizer are fp32."),
    "bf16.enabled": FLAG.about("false", "Compute in bfloat16."),
    "bf16.check_grad_overflow": FLAG.about("true", "Skip an update whose gradients are not finite."),
    "bf16.immediate_grad_update": FLAG.about("false", "Add a gradient to the fp32 sum as soon as it appears."),
    "fp16": SECTION.about("", "float16 with loss scaling."),
    "fp16.enabled": FLAG.about("false", "Compute in float16."),
    "fp16.loss_scale": SCALE.about("0", "Constant loss scale. 0: dynamic."),
    "fp16.initial_scale_power": _whole(0, 64).about("16", "The dynamic loss scale starts at 2 to this power."),
    "fp16.loss_scale_window": _whole(1).about("1000", "Updates without overflow after which the scale doubles."),
    "fp16.hysteresis": _whole(1).about("2", "Overflows before the scale is halved."),
    "fp16.consecutive_hysteresis": FLAG.about("false", "Restart that count at every update without overflow."),
    "fp16.min_loss_scale": _whole(1).about("1", "Smallest dynamic loss scale."),
}
_ACTIVATIONS = {
    "activation_checkpointing": SECTION.about("", "Recomputing of activations. `enabled` is our own key; DeepSpeed reads no part of this."),
    "activation_checkpointing.enabled": FLAG.about(
        "false", "Keep only the input of each Transformer block, and run the block again in the backward: less memory, a third more work."
    ),
}
_MEGATRON = {
    "megatron": SECTION.about("", "How ranks share the model. Our own section: it is removed before DeepSpeed reads the file."),
    "megatron.tensor_model_parallel_size": _whole(1, 2**16).about("1", "Ranks that split each layer among them."),
    "megatron.shard_size": _whole(2, 2**16).about(
        "all", "Data-parallel ranks that shard one copy of the model, such as those of a node. Further ranks have further copies."
    ),
    "megatron.teacher_gather": _word("update", "layer", "auto").about(
        '"auto"',
        "When the teacher is gathered: whole, once per update; layer by layer; or, auto, once if it takes little of the free memory.",
    ),
    "megatron.across_nodes": FLAG.about("false", "True: a tensor-parallel group or a copy of the model may span nodes, which is slow."),
}
KEYS: Mapping[str, Key] = {
    **_TOP,
    **_OPTIMIZER,
    **{f"zero_optimization.{name}".rstrip("."): key for name, key in _ZERO.items()},
    **_PRECISION,
    **_ACTIVATIONS,
    **_MEGATRON,
}
"""Every key that a ds_config may have, by dotted name."""

_GATHER = "launch/convert.py consolidate makes one file of a checkpoint"
_STAGE_2 = "it belongs to ZeRO stages 1 and 2"
_ACCELERATE = "it belongs into accelerate's own file"

NOT_NEEDED: Mapping[str, str] = {
    "scheduler": "it belongs to the recipe; use --set optim.schedule=cosine --set optim.warmup_steps=N",
    "gradient_accumulation_steps": (
        "it is derived from run.global_batch_size, micro batch and ranks (--set run.global_batch_size=N changes it)"
    ),
    "steps_per_print": "DeepSpeed's lines are not printed; --set run.log_steps=N says how often ours are",
    "wall_clock_breakdown": "DeepSpeed's lines are not printed; metrics.jsonl has the seconds of a step",
    "tensor_parallel": 'write "megatron": {"tensor_model_parallel_size": N}',
    "tensorboard": "metrics.jsonl has every number",
    "csv_monitor": "metrics.jsonl has every number",
    "wandb": "--set run.wandb=online logs there",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _GATHER,
    "zero_optimization.gather_16bit_weights_on_model_save": _GATHER,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _GATHER,
    "zero_optimization.allgather_partitions": _STAGE_2,
    "zero_optimization.allgather_bucket_size": _STAGE_2,
    "zero_optimization.cpu_offload": 'write "offload_optimizer": {"device": "cpu"}',
    "zero_optimization.elastic_checkpoint": "a checkpoint loads on any number of ranks",
    "zero3_init_flag": _ACCELERATE,
    "zero3_save_16bit_model": _ACCELERATE,
    "zero_stage": _ACCELERATE,
}
"""Keys without a use here -> why. They are accepted if they are switched off."""

_OTHERS = {
    "": """aio amp autotuning bfloat16 checkpoint comms_logger compile compression_training curriculum_learning data_efficiency
        dataloader_drop_last disable_allgather dump_state eigenvalue elasticity expert_parallel flops_profiler fp32_allreduce
        gradient_allreduce_op gradient_predivide_factor graph_harvesting hybrid_engine log_level memory_breakdown nebula pipeline
        prescale_gradients progressive_layer_drop seq_parallel_communication_data_type sparse_attention sparse_gradients timers
        torch_autocast use_data_before_expert_parallelism weight_quantization""",
    "activation_checkpointing.": """partition_activations cpu_checkpointing contiguous_memory_optimization number_checkpoints
        synchronize_checkpoint_boundary profile use_reentrant""",
    "bf16.": "bf16_master_weights_and_grads bf16_optimizer_states",
    "fp16.": "auto_cast fp16_master_weights_and_grads",
    "data_types.": "param_dtype buffer_dtype keep_in_fp32_modules",
    "optimizer.": "legacy_fusion",
    "optimizer.params.": "bias_correction amsgrad momentum",
    "zero_optimization.": """compute_grad_norm cpu_offload_param cpu_offload_use_pin_memory enable_sanity_checks ignore_unused_parameters
        legacy_stage1 load_from_fp32_weights log_trace_cache_warnings mics_hierarchical_params_gather mics_shard_size
        override_module_apply parameter_alignment pipeline_loading_checkpoint save_muon_momentum_buffer_in_memory
        stage3_allgather_sequential stage3_model_persistence_threshold use_multi_rank_bucket_allreduce
        zenflow zero_hpz_partition_size zero_quantized_gradients zero_quantized_nontrainable_weights
        zero_quantized_weights""",
    "zero_optimization.offload_param.": "buffer_count buffer_size max_in_cpu nvme_path",
    "zero_optimization.offload_optimizer.": "cpuadam_cores_perc nvme_path pipeline pipeline_read pipeline_write ratio super_offload",
}
UNTESTED = frozenset(prefix + name for prefix, names in _OTHERS.items() for name in names.split())
"""DeepSpeed's other keys, which are refused as untested, not as misspelt. They are accepted if they are switched off."""

NEUTRAL: Mapping[str, float] = {
    "gradient_predivide_factor": 1.0,
    "zero_optimization.zero_hpz_partition_size": 1,
    "zero_optimization.mics_shard_size": -1,
    "zero_optimization.offload_optimizer.ratio": 1.0,
}
"""Keys of UNTESTED that are numbers -> DeepSpeed's own default, with which they change nothing. With it they may stand."""


def checked(content: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Check one section of a ds_config, with the sections inside it. Return the section without the keys that the recipe owns, that only
    ask for the default (such as null), or that are untested and switched off, and a list of complaints. A float without a fraction, such
    as 2e8, becomes an int.
    `prefix`: the section's dotted name with a dot at the end; "" for the whole ds_config."""
    kept, complaints = dict[str, Any](), list[str]()
    for name, value in content.items():
        dotted = prefix + name
        if _default_is_meant(dotted, value):
            continue
        rule = KEYS.get(dotted)
        complaint = rule.complaint(dotted, value) if rule else _complaint_without_a_rule(dotted, value, prefix)
        if complaint:
            complaints.append(complaint)
        elif rule and rule.is_section:
            kept[name], more = checked(value, f"{dotted}.")
            complaints += more
        elif rule and not rule.owner:
            kept[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return kept, complaints


def _default_is_meant(dotted: str, value: Any) -> bool:
    rule = KEYS.get(dotted)
    if rule is None and dotted not in NOT_NEEDED and dotted not in UNTESTED:
        return False
    if value is None or (type(value) in (int, float) and value == NEUTRAL.get(dotted)):
        return True
    return value == "auto" and (
        dotted.startswith("zero_optimization")
        or dotted in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "scheduler")
        or (rule is not None and rule.owner is not None)
    )


def _complaint_without_a_rule(dotted: str, value: Any, prefix: str) -> str | None:
    if dotted in NOT_NEEDED:
        return None if _is_off(value) else f"{dotted} is not needed here, remove it: {NOT_NEEDED[dotted]}"
    if dotted in UNTESTED:
        return None if _is_off(value) else f"{dotted} is not covered by our tests, remove it"
    elsewhere = [known for known in KEYS if known.endswith(f".{dotted}")]
    beside = sorted({known.removeprefix(prefix).partition(".")[0] for known in KEYS if known.startswith(prefix)})
    near = elsewhere[:1] or [prefix + name for name in close_matches(dotted.removeprefix(prefix), beside)[:1]]
    return f"{dotted} is no key of a ds_config; {f'did you mean {near[0]}?' if near else 'known here are ' + ', '.join(beside)}"


def _is_off(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("enabled") is False or all(_is_off(inner) for inner in value.values())
    return value is None or value is False or value in ("none", math.inf)
