"""ds_configs with recipes: the shipped ones fit, numbers that the recipe owns are refused, and the global batch is never changed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.ds_config import LARGEST_AUTO_MICRO_BATCH, load_ds_config, plan_batch, resolve
from recipes.errors import ConfigError
from recipes.settings import apply_overrides
from recipes.text import text_base

SHIPPED = sorted((Path(__file__).parents[2] / "ds_configs").glob("*.json"))
ALL_RECIPES = [build for recipes in RECIPES.values() for build in recipes.values()]
ADAMW = {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"optimizer": {"params": {"lr": 1e-3}}},
        r'optimizer\.params\.lr 0\.001 belongs to the recipe; write "auto" here and --set optim\.lr=0\.001',
    ),
    ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, r"optimizer\.params\.betas .* --set optim\.betas=0\.9,0\.95$"),
    ({"optimizer": {"params": {"eps": 1e-8}}}, r"--set optim\.eps=1e-08$"),
    ({"optimizer": {"params": {"weight_decay": 0}}}, r"--set optim\.weight_decay=0$"),
    ({"gradient_clipping": 1.0}, r"--set optim\.clip_norm=1\.0$"),
    ({"train_batch_size": 64}, r"--set run\.global_batch_size=64$"),
    ({"gradient_accumulation_steps": 4}, r"remove it: it is derived from .* \(--set run\.global_batch_size=N changes it\)"),
    (
        {"scheduler": {"type": "WarmupLR"}},
        r"scheduler is not needed here, remove it: .* belongs to the recipe; use --set optim\.schedule=cosine",
    ),
    (
        {"tensor_parallel": {"autotp_size": 2}},
        r'tensor_parallel is not needed here, remove it: write "megatron": \{"tensor_model_parallel_size": N\}',
    ),
    ({"zero_optimization": {"stage": 2}}, r"zero_optimization\.stage is 2, must be 3: the sharded teacher needs"),
    ({"zero_optimization": {"stage": 0}}, r"zero_optimization\.stage is 0, must be 3"),
    ({"zero_optimization": {"stage": "3"}}, r'zero_optimization\.stage is "3", must be 3'),
    ({"zero_optimization": {"zero_hpz_partition_size": 8}}, r"zero_optimization\.zero_hpz_partition_size is not covered by our tests"),
    ({"zero_optimization": {"mics_shard_size": 8}}, r"mics_shard_size is not covered"),
    ({"zero_optimization": {"zero_quantized_weights": True}}, r"zero_quantized_weights is not covered"),
    ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, r'offload_param\.device is "cpu", must be "none"'),
    ({"zero_optimization": {"overlap_com": True}}, r"overlap_com is no key of a ds_config; did you mean zero_optimization\.overlap_comm\?"),
    ({"zero_optimization": {"reduce_bucket_size": "5e8"}}, r'reduce_bucket_size is "5e8", must be a whole number from 1 to 2147483647'),
    ({"zero_optimization": {"offload_optimizer": "cpu"}}, r'offload_optimizer is "cpu", must be a'),
    ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, r'offload_optimizer\.device is "nvme", must be "cpu" or "none"'),
    ({"zero_optimization": {"offload_optimizer": {"nvme_path": "/x"}}}, r"offload_optimizer\.nvme_path is not covered"),
    ({"zero_optimisation": {"stage": 3}}, r"zero_optimisation is no key of a ds_config; did you mean zero_optimization\?"),
    ({"train_micro_batch_size": 4}, r"did you mean train_micro_batch_size_per_gpu\?"),
    ({"xyzzy": 1}, r"xyzzy is no key of a ds_config; known here are activation_checkpointing, bf16, "),
    ({"zero_optimization": 3}, r"zero_optimization is 3, must be a JSON object"),
    ({"bf16": True}, r"bf16 is true, must be a JSON object"),
    ({"bf16": {"enable": True}}, r"bf16\.enable is no key of a ds_config; did you mean bf16\.enabled\?"),
    ({"bf16": {"enabled": "auto"}}, r'bf16\.enabled is "auto"'),
    ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, r"bf16 and fp16 are both enabled"),
    ({"optimizer": {"type": "Lamb"}}, r'optimizer\.type is "Lamb", must be "AdamW"'),
    (
        {"optimizer": {"params": {"adam_w_mode": False}}},
        r"optimizer\.params\.adam_w_mode is false, must be true: weight decay is decoupled",
    ),
    ({"optimizer": {"kind": "AdamW"}}, r"optimizer\.kind is no key of a ds_config; known here are params, type"),
    ({"train_micro_batch_size_per_gpu": 0}, r'train_micro_batch_size_per_gpu is 0, must be a positive whole number or "auto"'),
    ({"train_micro_batch_size_per_gpu": 1.5}, r"train_micro_batch_size_per_gpu is 1\.5"),
    ({"train_micro_batch_size_per_gpu": True}, r"train_micro_batch_size_per_gpu is true"),
    ({"megatron": {"tensor_model_parallel_size": 0}}, r"tensor_model_parallel_size is 0, must be a whole number from 1 to"),
    ({"megatron": {"tensor_model_parallel_size": "2"}}, r'tensor_model_parallel_size is "2", must be a whole number'),
    (
        {"megatron": {"pipeline_model_parallel_size": 2}},
        r"megatron\.pipeline_model_parallel_size is no key of a ds_config; known here are across_nodes",
    ),
]


@pytest.mark.parametrize(("content", "complaint"), REFUSED, ids=lambda value: json.dumps(value) if isinstance(value, dict) else "")
def test_what_does_not_belong_in_a_ds_config_is_refused_with_the_remedy(content: dict, complaint: str) -> None:
    before = json.dumps(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        resolve(text_base(), content, "mine.json", 1)
    assert "\n" not in str(caught.value)
    assert json.dumps(content) == before, "the caller's object is left alone"


@pytest.mark.parametrize("world_size", [1, 2, 8])
@pytest.mark.parametrize("build", ALL_RECIPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_ds_config_resolves_for_every_recipe(path: Path, build: Callable[[], Recipe], world_size: int) -> None:
    recipe, content = build(), load_ds_config(path)
    tp_size = content.get("megatron", {}).get("tensor_model_parallel_size", 1)
    if world_size % tp_size:
        with pytest.raises(ConfigError, match=f"{world_size} ranks are not a multiple of tensor_model_parallel_size {tp_size}"):
            resolve(recipe, content, str(path), world_size)
        return
    config = resolve(recipe, content, str(path), world_size)
    assert '"auto"' not in json.dumps(config.deepspeed)
    assert not {"megatron", "optimizer", "scheduler"} & set(config.deepspeed), "the sections that are ours"
    assert config.deepspeed["gradient_clipping"] == recipe.optim.clip_norm
    sizes = [config.deepspeed[key] for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")]
    assert sizes == [config.batch.micro_batch_size, config.batch.accumulation_steps, recipe.run.global_batch_size]
    assert config.batch.dp_size * sizes[0] * sizes[1] == recipe.run.global_batch_size


def test_the_ds_configs_of_product_md_are_shipped() -> None:
    names = ("zero3_bf16", "zero3_fp16", "zero3_offload_cpu", "zero3_tp2_bf16", "zero3_cpu", "zero3_cpu_bf16")
    assert set(names) <= {path.stem for path in SHIPPED}


def test_auto_is_allowed_for_every_number_of_the_recipe() -> None:
    content = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "scheduler": "auto",
        "optimizer": ADAMW,
    }
    assert resolve(text_base(), content, "x", 2).deepspeed == resolve(text_base(), {}, "x", 2).deepspeed


@pytest.mark.parametrize(
    ("content", "precision"), [({}, "fp32"), ({"bf16": {"enabled": True}}, "bf16"), ({"fp16": {"enabled": True}}, "fp16")]
)
def test_precision_is_what_the_json_enables(content: dict, precision: str) -> None:
    off = {"bf16": {"enabled": False}, "fp16": {"enabled": False}}
    assert resolve(text_base(), {**off, **content}, "x", 1).precision == precision


def test_offload_follows_the_json() -> None:
    def offloads(device: str) -> bool:
        return resolve(text_base(), {"zero_optimization": {"offload_optimizer": {"device": device}}}, "x", 1).offloads_optimizer

    assert offloads("cpu") and not offloads("none") and not resolve(text_base(), {}, "x", 1).offloads_optimizer


def test_settings_of_a_users_own_ds_config_reach_deepspeed() -> None:
    zero = {"stage": 3, "reduce_bucket_size": 12345, "overlap_comm": True}
    config = resolve(text_base(), {"zero_optimization": zero, "communication_data_type": "fp32"}, "x", 1)
    assert config.deepspeed["zero_optimization"].items() >= zero.items() and config.deepspeed["communication_data_type"] == "fp32"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{\n  "bf16": {,}\n}', r"x\.json: broken JSON at line 2, column 12"),
        (b"", "broken JSON at line 1, column 1"),
        (b"[1]", r"holds a list, must be a JSON object"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        (
            b'{"zero_optimization": {"reduce_bucket_size": 1' + b"0" * 5000 + b"}}",
            r"x\.json: an integer has more than 4300 digits; shorten it",
        ),
        *((b'{"aio": ' + b"[" * depth + b"]" * depth + b"}", "x.json: nested more than 100 levels deep") for depth in (100, 900, 10**5)),
        *((b'{"aio":' * depth + b"1" + b"}" * depth, "x.json: nested more than 100 levels deep") for depth in (101, 900, 10**5)),
    ],
)
def test_the_error_of_a_file_that_is_no_json_object_has_the_position(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        load_ds_config(tmp_path / "x.json")


def test_the_error_of_a_missing_file_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: No such file or directory; the shipped ones are in ds_configs/"):
        load_ds_config(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_ds_config(tmp_path)


def with_batch(global_batch_size: int) -> Recipe:
    return apply_overrides(text_base(), [f"run.global_batch_size={global_batch_size}"])


@given(st.integers(1, 512), st.integers(1, 64), st.sampled_from([1, 2, 4]), st.one_of(st.just("auto"), st.integers(1, 80)))
def test_accumulation_gives_the_global_batch_or_the_message_has_sizes_that_do(
    total: int, dp_size: int, tp_size: int, micro: int | str
) -> None:
    world_size = dp_size * tp_size
    try:
        plan = plan_batch(with_batch(total), micro, tp_size, world_size)
    except ConfigError as error:
        assert total % dp_size or (total // dp_size) % int(micro), f"it divides, yet: {error}"
        for text in re.findall(r"global_batch_size=(\d+)|use (\d+)|or (\d+), or", str(error)):
            plan_batch(with_batch(int("".join(text))), micro if "micro" in str(error) else "auto", tp_size, world_size)
        if named := re.search(r"per_gpu to (\d+)(?: or (\d+))?", str(error)):
            for text in filter(None, named.groups()):
                plan_batch(with_batch(total), int(text), tp_size, world_size)
        assert named or "global_batch_size=" in str(error), f"no way out: {error}"
        return
    assert (plan.world_size, plan.tp_size, plan.dp_size) == (world_size, tp_size, dp_size)
    assert plan.dp_size * plan.micro_batch_size * plan.accumulation_steps == total
    assert plan.micro_batch_size == micro if micro != "auto" else plan.micro_batch_size <= LARGEST_AUTO_MICRO_BATCH


def test_the_batch_error_has_the_numbers() -> None:
    with pytest.raises(
        ConfigError, match=r"run\.global_batch_size 2048 is not a multiple of micro 12 x dp 16 = 192; use 1920 or 2112, or set"
    ):
        plan_batch(with_batch(2048), 12, 1, 16)
    with pytest.raises(
        ConfigError, match=r"2048 is not a multiple of the data-parallel size 24 \(48 ranks / tensor-parallel size 2\); use"
    ):
        plan_batch(with_batch(2048), "auto", 2, 48)


@pytest.mark.parametrize(
    ("tp_size", "world_size", "changes", "complaint"),
    [
        (8, 8, [], r"num_attention_heads 12 is not a multiple of tensor_model_parallel_size 8; .* set it to 1 or 2 or 3 or 4 or 6 or 12$"),
        (
            5,
            1,
            [],
            r"num_attention_heads 12 is not a multiple of tensor_model_parallel_size 5; .* megatron set it to 1 or 2 or 3 or 4 or 6 or 12$",
        ),
        (16, 16, ["model.ffn_hidden_size=3074"], r"num_attention_heads 12 is not a multiple of .* 16; .* megatron set it to 1 or 2$"),
        (
            4,
            4,
            ["model.ffn_hidden_size=3070"],
            r"ffn_hidden_size 3070 is not a multiple of tensor_model_parallel_size 4; .* set it to 1 or 2$",
        ),
        (4, 6, [], r"6 ranks are not a multiple of tensor_model_parallel_size 4; start 8 ranks"),
        (2, 1, [], r"1 ranks are not a multiple of tensor_model_parallel_size 2; start 2 ranks .* \(a run may change it\)"),
    ],
)
def test_tensor_parallelism_must_divide(tp_size: int, world_size: int, changes: list[str], complaint: str) -> None:
    content = {"megatron": {"tensor_model_parallel_size": tp_size}}
    with pytest.raises(ConfigError, match=complaint):
        resolve(apply_overrides(text_base(), changes), content, "x.json", world_size)


def test_tensor_parallel_ranks_read_one_batch() -> None:
    plan = resolve(text_base(), {"megatron": {"tensor_model_parallel_size": 4}}, "x.json", 16).batch
    assert (plan.dp_size, plan.tp_size) == (4, 4)


TP2: dict[str, object] = {"megatron": {"tensor_model_parallel_size": 2}}


@pytest.mark.parametrize(("local_size", "fits"), [(1, "use 1"), (3, "use 1 or 3")])
def test_a_tensor_parallel_group_must_fit_into_a_node(local_size: int, fits: str) -> None:
    recipe = apply_overrides(text_base(), ["run.global_batch_size=96"])
    with pytest.raises(ConfigError, match=rf"size 2 does not fit into a node of {local_size} ranks.*{fits}, or ask for it"):
        resolve(recipe, TP2, "x.json", 12, local_size)
    asked = {"megatron": {"tensor_model_parallel_size": 2, "across_nodes": True}}
    assert resolve(recipe, asked, "x.json", 12, local_size).batch.may_cross_nodes
    assert not resolve(recipe, TP2, "x.json", 12).batch.may_cross_nodes, "the nodes of a dry run are unknown"
    assert resolve(recipe, TP2, "x.json", 12, 4).batch.tp_size == 2


def test_across_nodes_must_be_true_or_false() -> None:
    recipe = text_base()
    with pytest.raises(ConfigError, match=r"megatron\.across_nodes is 1, must be true or false"):
        resolve(recipe, {"megatron": {"tensor_model_parallel_size": 2, "across_nodes": 1}}, "x.json", 4)
