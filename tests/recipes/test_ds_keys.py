"""Types and ranges of a ds_config's values, pasted files of other programs, and DeepSpeed's own keys, none of which is unknown here."""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import deepspeed
import pytest

from model.bounds import LARGEST_INTEGER
from recipes.ds_config import load_ds_config, resolve
from recipes.ds_keys import KEYS, NEUTRAL, NOT_NEEDED, UNTESTED, Key, checked
from recipes.errors import ConfigError
from recipes.text import text_base

SOURCE = Path(deepspeed.__file__).parent / "runtime"
ZERO_NUMBERS = {key for key in KEYS if re.search(r"size$|threshold$|parameters$|distance$", key) and key.startswith("zero")}
NONSENSE = ([], "", "maybe", -1, 0.5, math.nan, -math.inf, {"a": 1}, 10**30, 10**400)


def nested(dotted: str, value: Any) -> dict[str, Any]:
    first, _, rest = dotted.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("dotted", KEYS)
def test_every_key_refuses_a_wrong_value_by_its_name(dotted: str) -> None:
    for value in NONSENSE:
        if (dotted, value) in (("fp16.loss_scale", 0.5), ("fp16.loss_scale", 10**30)):
            continue
        _, complaints = checked(nested(dotted, value))
        assert len(complaints) == 1 or KEYS[dotted].is_section, (value, complaints)
        assert complaints and complaints[0].startswith((f"{dotted} ", f"{dotted}.")), value
        with pytest.raises(ConfigError, match=re.escape(dotted)) as caught:
            resolve(text_base(), nested(dotted, value), "x.json", 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dotted", "value", "said"),
    [
        ("zero_optimization.reduce_bucket_size", -1, "must be a whole number from 1 to 2147483647"),
        ("zero_optimization.reduce_bucket_size", 1e15, "must be a whole number from 1 to 2147483647"),
        ("zero_optimization.stage3_prefetch_bucket_size", 943718.4, "must be a whole number of at least 0"),
        ("bf16.enabled", "auto", 'bf16.enabled is "auto", must be true or false'),
        ("steps_per_print", 0, "--set run.log_steps=N says how often ours are"),
        ("steps_per_print", "inf", "steps_per_print is not needed here"),
        ("wall_clock_breakdown", "auto", "wall_clock_breakdown is not needed here"),
        ("communication_data_type", "auto", 'is "auto", must be "fp32" or "bf16" or "fp16"'),
        ("communication_data_type", "float32", 'must be "fp32" or'),
        ("data_types.grad_accum_dtype", "auto", 'data_types.grad_accum_dtype is "auto", must be "fp32"'),
        ("data_types", 1, "data_types is 1, must be a JSON object {...}"),
        ("optimiser", None, "optimiser is no key of a ds_config; did you mean optimizer?"),
        ("activation_checkpointing.enabled", 1, "activation_checkpointing.enabled is 1, must be true or false"),
        ("activation_checkpointing.cpu_checkpointing", True, "cpu_checkpointing is not covered by our tests, remove it"),
        ("fp16.loss_scale_window", 0, "must be a whole number of at least 1"),
        ("fp16.loss_scale", 10**400, "must be a number from 0 to 1.8e308"),
        ("fp16.initial_scale_power", 65, "must be a whole number from 0 to 64"),
        ("zero_optimization.zero_hpz_partition_size", 8, "is not covered by our tests, remove it"),
        ("prescale_gradients", True, "prescale_gradients is not covered by our tests, remove it"),
        ("stage", 3, "stage is no key of a ds_config; did you mean zero_optimization.stage?"),
    ],
)
def test_the_complaint_has_the_allowed_values(dotted: str, value: Any, said: str) -> None:
    _, complaints = checked(nested(dotted, value))
    assert len(complaints) == 1 and said in complaints[0]


def test_all_complaints_are_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(text_base(), {"bf16": {"enabled": 1}, "gradient_clipping": 1.0, "steps_per_print": 10}, "x.json", 1)
    assert str(caught.value).count("; and ") == 2 and str(caught.value).startswith("x.json: bf16.enabled is 1")


@pytest.mark.parametrize("dotted", sorted(ZERO_NUMBERS))
def test_a_whole_number_may_be_written_as_a_float_and_auto_means_the_default(dotted: str) -> None:
    (kept, complaints), key = checked(nested(dotted, 1e9)), dotted.rpartition(".")[2]
    assert (kept["zero_optimization"][key], type(kept["zero_optimization"][key]), complaints) == (10**9, int, [])
    assert checked(nested(dotted, "auto")) == ({"zero_optimization": {}}, [])


@pytest.mark.parametrize("dotted", sorted({*NOT_NEEDED, *UNTESTED}))
def test_keys_without_a_use_are_allowed_if_they_are_off(dotted: str) -> None:
    for value in (None, False, "none", {}, {"enabled": False}, {"device": "none"}):
        kept, complaints = checked(nested(dotted, value))
        assert complaints == [] and dotted.rpartition(".")[2] not in json.dumps(kept)
    assert checked(nested(dotted, True))[1] != []


@pytest.mark.parametrize("dotted", sorted({*KEYS, *NOT_NEEDED, *UNTESTED}))
def test_null_is_the_same_as_no_key(dotted: str) -> None:
    without = nested(dotted.rpartition(".")[0], {}) if "." in dotted else {}
    assert resolve(text_base(), nested(dotted, None), "x.json", 1) == resolve(text_base(), without, "x.json", 1)


@pytest.mark.parametrize("dotted", NEUTRAL)
def test_deepspeeds_own_default_may_stand_and_changes_nothing(dotted: str) -> None:
    from deepspeed.runtime.constants import GRADIENT_PREDIVIDE_FACTOR_DEFAULT
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig

    fields = {"zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig, "zero_optimization": DeepSpeedZeroConfig}
    defaults = {f"{section}.{name}": one.default for section, model in fields.items() for name, one in model.model_fields.items()}
    defaults["zero_optimization.mics_shard_size"] = -1  # in the releases that had this key
    defaults["gradient_predivide_factor"] = GRADIENT_PREDIVIDE_FACTOR_DEFAULT
    assert NEUTRAL[dotted] == defaults[dotted] and dotted in UNTESTED
    assert resolve(text_base(), nested(dotted, NEUTRAL[dotted]), "x.json", 1) == resolve(text_base(), {}, "x.json", 1)
    for value in (True, False, 2, "1"):
        assert checked(nested(dotted, value))[1] != [] or value is False


def test_no_key_is_in_two_lists_and_each_outer_key_is_a_section() -> None:
    assert not KEYS.keys() & NOT_NEEDED.keys() and not (KEYS.keys() | NOT_NEEDED.keys()) & UNTESTED
    outer = {dotted.rpartition(".")[0] for dotted in (*KEYS, *NOT_NEEDED, *UNTESTED)} - {""}
    assert {dotted for dotted in outer if not (dotted in KEYS and KEYS[dotted].is_section)} == set()
    assert all(isinstance(rule, Key) for rule in KEYS.values())


def fields_of(file: str, name: str) -> set[str]:
    """Return the JSON keys of one of DeepSpeed's pydantic models, read from its source."""
    tree = ast.parse((SOURCE / file).read_text())
    model = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    found = set()
    for item in model.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            calls = item.value.keywords if isinstance(item.value, ast.Call) else []
            alias = [word.value.value for word in calls if word.arg == "alias" and isinstance(word.value, ast.Constant)]
            found.add(str(alias[0]) if alias else item.target.id)
    return found


@pytest.mark.parametrize(
    ("prefix", "file", "name"),
    [
        ("zero_optimization.", "zero/config.py", "DeepSpeedZeroConfig"),
        ("zero_optimization.offload_optimizer.", "zero/offload_config.py", "DeepSpeedZeroOffloadOptimizerConfig"),
        ("zero_optimization.offload_param.", "zero/offload_config.py", "DeepSpeedZeroOffloadParamConfig"),
        ("bf16.", "precision_config.py", "DeepSpeedBF16Config"),
        ("fp16.", "precision_config.py", "DeepSpeedFP16Config"),
    ],
)
def test_no_key_of_deepspeed_is_taken_for_a_typing_error(prefix: str, file: str, name: str) -> None:
    keys = fields_of(file, name)
    assert len(keys) > 3
    assert {prefix + key for key in keys} - KEYS.keys() - NOT_NEEDED.keys() - UNTESTED == set()


def test_deepspeed_accepts_the_ends_of_every_range() -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    models = {"zero_optimization": DeepSpeedZeroConfig, "bf16": DeepSpeedBF16Config, "fp16": DeepSpeedFP16Config}
    candidates = (True, False, 0, 1, 3, 64, 1024, 2**31 - 1, LARGEST_INTEGER, "cpu", "none", ["Block"])
    for dotted, rule in KEYS.items():
        section, _, inner = dotted.partition(".")
        taken = [value for value in candidates if inner and section in models and rule.fits(value) and not rule.is_section]
        for value in taken:
            models[section](**nested(inner, value))
        assert taken or section not in models or rule.is_section


OUR_DEFAULTS = {
    "zero_optimization.stage": "3",
    "zero_optimization.memory_efficient_linear": "false",
    "zero_optimization.overlap_comm": "true",  # DeepSpeed's own default is None, which it turns into True in stage 3
}


def test_the_documented_defaults_are_those_of_deepspeed() -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

    models = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
    }
    for section, model in models.items():
        defaults = {field.alias or name: field.default for name, field in model.model_fields.items()}
        keys = [dotted for dotted, key in KEYS.items() if dotted.rpartition(".")[0] == section and not key.is_section]
        assert len(keys) > 1
        for dotted in keys:
            expected = OUR_DEFAULTS.get(dotted) or json.dumps(defaults[dotted.rpartition(".")[2]])
            assert KEYS[dotted].default == expected, dotted


HUGGING_FACE = {
    "fp16": {
        **{"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1}
    },
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "cpu", "pin_memory": True},
        **{"overlap_comm": True, "contiguous_gradients": True, "sub_group_size": 1e9, "reduce_bucket_size": "auto"},
        **{"stage3_prefetch_bucket_size": "auto", "stage3_param_persistence_threshold": "auto", "stage3_max_live_parameters": 1e9},
        **{"stage3_max_reuse_distance": 1e9, "stage3_gather_16bit_weights_on_model_save": True},
    },
    **{"gradient_accumulation_steps": "auto", "gradient_clipping": "auto", "steps_per_print": 2000, "train_batch_size": "auto"},
    **{"train_micro_batch_size_per_gpu": "auto", "wall_clock_breakdown": False},
}
"""transformers' ds_config_zero3.json."""
ACCELERATE = HUGGING_FACE | {
    "fp16": {"enabled": True, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1},
    "bf16": {"enabled": False},
    "optimizer": {"type": "Adam", "params": {"lr": "auto", "weight_decay": "auto", "torch_adam": True, "adam_w_mode": True}},
    "zero_optimization": HUGGING_FACE["zero_optimization"]  # type: ignore[operator]
    | {"offload_optimizer": {"device": "none"}, "offload_param": {"device": "none"}, "stage3_gather_16bit_weights_on_model_save": "auto"},
    "gradient_accumulation_steps": 1,
}
"""accelerate's zero_stage3_config.json."""
LLAMA_FACTORY = HUGGING_FACE | {"zero_allow_untested_optimizer": True, "activation_checkpointing": {"cpu_checkpointing": True}}
PASTED = {"transformers": HUGGING_FACE, "accelerate": ACCELERATE, "LLaMA-Factory": LLAMA_FACTORY}


def apply_remedies(content: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the file after the remedy of each complaint was applied, and nothing else."""
    content = json.loads(json.dumps(content))
    for complaint in message.partition(": ")[2].split("; and "):
        *outer, key = complaint.split()[0].split(".")
        section = content
        for name in outer:
            section = section[name]
        if "remove it" in complaint:
            del section[key]
        elif "must be true or false" in complaint:
            section[key] = outer == ["bf16"]
        else:
            section[key] = re.findall(r'must be "(\w+)"$', complaint)[0]
    return content


@pytest.mark.parametrize("name", PASTED)
def test_a_pasted_file_runs_after_the_remedies_of_one_error_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(PASTED[name]))
    with pytest.raises(ConfigError) as caught:
        resolve(text_base(), load_ds_config(path), "ds.json", 1)
    path.write_text(json.dumps(apply_remedies(PASTED[name], str(caught.value))))
    config = resolve(text_base(), load_ds_config(path), "ds.json", 1)
    assert config.precision in ("bf16", "fp16") and config.deepspeed["zero_optimization"]["sub_group_size"] == 10**9


def test_a_file_with_comments_a_byte_order_mark_and_keys_that_are_off_runs_unchanged(tmp_path: Path) -> None:
    zero = '{"stage": 3, "offload_optimizer": {"device": "none"}, "//": "off", "reduce_bucket_size": "auto"}'
    comments = '"_comment": "mine", "//": 1, "//": 2'
    text = f'{{{comments}, "bf16": {{"enabled": true}}, "zero_optimization": {zero}, "steps_per_print": Infinity}}'
    path = tmp_path / "ds.json"
    path.write_text(text, encoding="utf-8-sig")
    plain = resolve(text_base(), {"bf16": {"enabled": True}}, "x", 1)
    assert resolve(text_base(), load_ds_config(path), "x", 1) == plain


def test_a_key_that_appears_twice_is_refused_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"bf16": {"enabled": true, "enabled": false}}')
    with pytest.raises(ConfigError, match=r"the key 'enabled' stands twice in one object; remove one"):
        load_ds_config(path)


@pytest.mark.parametrize("name", ["AdamW", "adamw", "ADAMW", "Adam", "adam"])
def test_adamw_in_any_case_is_adamw(name: str) -> None:
    assert checked({"optimizer": {"type": name}})[1] == []
