"""The flags of launch/plan.py: what is asked, and what is refused."""

import json
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.planner.command import asked_recipe, build_parser, run_plan


def said(*flags: str) -> list[str]:
    found: list[str] = []
    assert run_plan(build_parser("").parse_args(list(flags)), found.append) == 0
    return found


def test_the_defaults_are_a_node_of_h100_in_bf16_and_a_cpu_in_fp32() -> None:
    assert said("--recipe", "text_base")[0].endswith("ds_configs/zero3_bf16.json, bf16, on 1 x 8 h100")
    assert said("--recipe", "text_tiny", "--cluster", "device=cpu")[0].endswith("ds_configs/zero3_cpu.json, fp32, on 1 x 1 cpu")


def test_json_is_one_object_and_explain_replaces_the_plan() -> None:
    (text,) = said("--recipe", "vision_base", "--json", "--price-per-gpu-hour", "2")
    assert json.loads(text)["recipe"] == "vision_base"
    assert said("--recipe", "speech_base", "--explain", "time")[0].startswith("model FLOPs of an update")
    assert said("--recipe", "speech_base", "--explain", "memory")[0].startswith("building: ")


@pytest.mark.parametrize(("recipe", "task"), [("text_base", "sst2"), ("speech_base", "ctc"), ("vision_base", "classify")])
def test_fine_tuning_is_planned_too(recipe: str, task: str) -> None:
    made = asked_recipe(recipe, task)
    assert made.finetune.task == task and made.modality == recipe.partition("_")[0]
    labels = {"sst2": "objective.labels=a,b", "ctc": "objective.alphabet=<pad>,<s>,</s>,<unk>,|,a", "classify": "objective.labels=a,b"}
    lines = said("--recipe", recipe, "--task", task, "--set", labels[task])
    assert any(line.startswith("parameters: ") and "teacher" not in line for line in lines)
    assert not any(line.startswith("run: ") for line in lines) and lines[-1].startswith("follows from the data: the number of updates")


def test_the_length_of_a_fine_tuning_may_be_given() -> None:
    flags = "--recipe", "text_base", "--task", "sst2", "--set", "objective.labels=a,b"
    given = (
        "--set",
        "finetune.epochs=0",
        "--set",
        "run.max_steps=5000",
        "--set",
        "optim.schedule_steps=5000",
        "--set",
        "optim.warmup_steps=100",
    )
    assert json.loads(said(*flags, "--json")[0])["days"] is None
    assert json.loads(said(*flags, *given, "--json")[0])["days"] > 0


def test_json_and_explain_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--json --explain time: --json has all numbers; leave one of them out"):
        said("--recipe", "text_base", "--json", "--explain", "time")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "text_base", "--task", "sst3"], "--task sst3: no task of text; did you mean sst2?"),
        (["--recipe", "text_bas"], "--recipe text_bas: unknown; did you mean text_base?"),
        (["--recipe", "text_base", "--deepspeed_config", "zero3_tp2_bf16", "--cluster", "gpus=1"], "1 ranks are not a multiple of"),
        (["--recipe", "text_base", "--set", "run.global_batch_size=255"], "is not a multiple of the data-parallel size 8"),
    ],
)
def test_what_is_no_plan_is_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        said(*flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["-1", "cheap", "inf", "nan"])
def test_a_price_is_a_number_from_0(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--price-per-gpu-hour {text}: must be a number from 0"):
        said("--recipe", "text_base", "--price-per-gpu-hour", text)


def test_tensor_parallelism_beyond_a_node_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit into a node of 1 ranks"):
        said("--recipe", "text_base", "--deepspeed_config", "zero3_tp2_bf16", "--cluster", "nodes=4,gpus=1,device=h100")


SEVEN_BILLION = [
    *("--set", "model.num_layers=32", "--set", "model.hidden_size=4096", "--set", "model.ffn_hidden_size=16384"),
    *("--set", "model.num_attention_heads=32", "--set", "run.global_batch_size=1024"),
]


def test_a_layout_that_does_not_fit_names_the_nearest_that_does() -> None:
    with pytest.raises(ConfigError) as caught:
        said("--recipe", "text_large", *SEVEN_BILLION, "--cluster", "nodes=1,gpus=8,device=a100,memory_gib=16")
    assert " on a rank, which has 16.00 GiB; " in str(caught.value)
    assert "; the nearest that fits: micro " in str(caught.value)


def test_a_recipe_that_cannot_fit_names_the_smallest_cluster_that_carries_it() -> None:
    with pytest.raises(ConfigError) as caught:
        said("--recipe", "text_large", *SEVEN_BILLION, "--set", "model.num_layers=64", "--cluster", "nodes=1,gpus=2,device=l40s")
    message = str(caught.value)
    assert (
        " GiB in the layout that needs least, which needs " in message
        and " are assumed; the smallest cluster that carries it has " in message
    )


def test_a_given_micro_batch_that_does_not_fit_names_the_nearest_layout_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"bf16": {"enabled": true}, "train_micro_batch_size_per_gpu": 256}')
    with pytest.raises(ConfigError, match=r"mine\.json: text_base needs .* on a rank, which has 44\.40 GiB; the nearest that fits: micro "):
        said("--recipe", "text_base", "--deepspeed_config", str(path), "--cluster", "gpus=1,device=l40s")
