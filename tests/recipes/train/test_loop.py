"""Equalities of whole runs, for every modality: any topology = one rank, a repeated run = the first, resumed = uninterrupted."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.catalog import RECIPES
from recipes.check import resolve_recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.modalities.registry import MODALITIES
from tests.distributed import run_distributed
from tests.launching import overrides
from tests.made_up import WRITE

ROOT = Path(__file__).parents[3]
STEPS = 20
SMALL = {"model__num_layers": 2, "model__hidden_size": 32, "teacher__average_top_k_layers": 2, "data__heldout_fraction": 0.2}
SHIPPED = "text_tiny"
SETTINGS = {modality: tuple(overrides(modality, **SMALL)[1::2]) for modality in RECIPES} | {SHIPPED: ()}
"""Settings that are trained: each modality with a global batch of 8 (speech: groups of 4); an unchanged recipe on its shipped sample."""
WARM = "optim.warmup_steps=5"  # the recipes have hundreds: in 20 steps the rate would be almost 0, and rounding errors would not grow
NO_DROPOUT = ("model.hidden_dropout=0", "model.attention_dropout=0", "model.block.layerdrop=0", "model.block.drop_path=0", WARM)
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1", WARM)
RANDOM_DROPS = {
    "text": "model.hidden_dropout=0.1",
    SHIPPED: "model.hidden_dropout=0.1",
    "speech": "model.block.layerdrop=0.3",
    "vision": "model.block.drop_path=0.3",
}
"""The kind of dropout that each modality's published recipe uses in addition to DROPOUT, or instead of it."""
TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"}
ON_NODES = load_ds_config(ROOT / "ds_configs" / "zero3_node_bf16.json")["zero_optimization"] | {"overlap_comm": False}
MICRO = {"text": 2, "speech": 2, "vision": 2, SHIPPED: 4}
Rows = list[dict[str, Any]]


def run_rank(setting: str, run_dir: Path, prepared: Path, settings: tuple[str, ...], changes: dict[str, Any], world_size: int) -> None:
    """Run one rank of the tiny recipe with SETTINGS. `changes` are merged into zero3_cpu.json."""
    from recipes.train import loop

    modality = setting.partition("_")[0]
    always = [*SETTINGS[setting], f"run.max_steps={STEPS}", "run.log_steps=1", "run.eval_samples=16"]
    recipe = resolve_recipe(f"{modality}_tiny", RECIPES[modality], [*always, *settings], str(prepared))
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | changes, "test", world_size)
    code = loop.run(recipe, config, run_dir, {})
    assert code == 0, code


def train(
    setting: str,
    run_dir: Path,
    prepared: Path,
    settings: tuple[str, ...] = NO_DROPOUT,
    changes: dict[str, Any] | None = None,
    *,
    world_size: int = 1,
) -> Rows:
    """Return metrics.jsonl of a run on `world_size` processes, without the timings."""
    run_distributed(run_rank, world_size, setting, run_dir, prepared, settings, changes or {}, world_size, timeout=240)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


@pytest.fixture(scope="module", params=[*RECIPES, pytest.param(SHIPPED, marks=pytest.mark.slow)])
def setting(request: pytest.FixtureRequest) -> str:
    """Each key of SETTINGS in turn."""
    return request.param


@pytest.fixture(scope="module")
def prepared(setting: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared data for SETTINGS."""
    if setting == SHIPPED:
        return request.getfixturevalue("sample_prepared")
    folder = tmp_path_factory.mktemp(setting)
    recipe = resolve_recipe(f"{setting}_tiny", RECIPES[setting], list(SETTINGS[setting]), str(WRITE[setting](folder)))
    return MODALITIES[setting].prepare(recipe, folder / "prepared", num_processes=1)


@pytest.fixture(scope="module")
def one_rank(setting: str, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """20 steps in fp32 on one rank, dropouts 0."""
    return train(setting, tmp_path_factory.mktemp("one") / "run", prepared)


@pytest.mark.parametrize("topology", ["tp2", "dp2", *(pytest.param(one, marks=pytest.mark.slow) for one in ("accumulation4", "nodes"))])
def test_topologies_agree_to_1e_5_for_5_steps_and_1e_4_for_20(
    setting: str, one_rank: Rows, prepared: Path, tmp_path: Path, topology: str
) -> None:
    world_size, changes = {
        "tp2": (2, {"megatron": {"tensor_model_parallel_size": 2}}),
        "dp2": (2, {}),
        "nodes": (4, {"megatron": {"shard_size": 2, "teacher_gather": "update"}, "zero_optimization": ON_NODES}),
        "accumulation4": (1, {"train_micro_batch_size_per_gpu": MICRO[setting]}),
    }[topology]
    other = train(setting, tmp_path / "run", prepared, changes=changes, world_size=world_size)
    worst = {}
    for ours, theirs in zip(other, one_rank, strict=True):
        assert [ours[k] for k in ("samples", "tokens", "masked_fraction", "lr")] == [
            theirs[k] for k in ("samples", "tokens", "masked_fraction", "lr")
        ]
        for key in ("loss", "grad_norm"):
            difference = abs(ours[key] / theirs[key] - 1)
            worst[key] = max(worst.get(key, 0.0), difference)
            assert difference <= (1e-5 if ours["step"] <= 5 else 1e-4), (ours["step"], key, difference)
    print(f"largest relative differences over {STEPS} steps: {worst}")
    for key in ("eval_loss", "explained_variance", "target_rank", "frontend_std"):
        assert other[-1][key] == pytest.approx(one_rank[-1][key], rel=1e-3, abs=1e-4), key


@pytest.mark.slow
def test_weights_that_are_gathered_by_all_gather_or_all_reduce_are_the_same_bits(setting: str, prepared: Path, tmp_path: Path) -> None:
    zero = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json")["zero_optimization"]
    assert zero["stage3_use_all_reduce_for_fetch_params"]
    other = {"zero_optimization": zero | {"stage3_use_all_reduce_for_fetch_params": False}}
    reduced = train(setting, tmp_path / "reduced", prepared, world_size=2)
    assert reduced == train(setting, tmp_path / "gathered", prepared, changes=other, world_size=2)


@pytest.mark.parametrize(
    "changes", [pytest.param({}, id="fp32"), pytest.param({"bf16": {"enabled": True}}, id="bf16", marks=pytest.mark.slow)]
)
def test_the_same_command_twice_gives_the_same_bits_with_dropout(
    setting: str, prepared: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    first = train(setting, tmp_path / "first", prepared, (*DROPOUT, RANDOM_DROPS[setting]), changes)
    second = train(setting, tmp_path / "second", prepared, (*DROPOUT, RANDOM_DROPS[setting]), changes)
    assert first == second


def test_dropout_changes_what_is_learned(setting: str, one_rank: Rows, prepared: Path, tmp_path: Path) -> None:
    changed = train(setting, tmp_path / "run", prepared, (*NO_DROPOUT, RANDOM_DROPS[setting]))
    assert any(ours["loss"] != theirs["loss"] for ours, theirs in zip(changed[:5], one_rank[:5], strict=True))


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(setting: str, one_rank: Rows, prepared: Path, tmp_path: Path) -> None:
    run_distributed(run_rank, 1, setting, tmp_path / "run", prepared, (*NO_DROPOUT, "run.max_steps=7"), {}, 1, timeout=240)
    resumed = train(setting, tmp_path / "run", prepared)
    without_evaluations = [{k: row[k] for k in ("step", "loss", "grad_norm", "target_std", "tokens")} for row in resumed]
    assert without_evaluations == [{k: row[k] for k in ("step", "loss", "grad_norm", "target_std", "tokens")} for row in one_rank]
    assert resumed[-1] == one_rank[-1]


@pytest.mark.slow
def test_a_run_resumed_under_tensor_parallelism_continues_the_same_curve(
    setting: str, one_rank: Rows, prepared: Path, tmp_path: Path
) -> None:
    run_distributed(run_rank, 1, setting, tmp_path / "run", prepared, (*NO_DROPOUT, "run.max_steps=7"), {}, 1, timeout=240)
    tp2 = {"megatron": {"tensor_model_parallel_size": 2}}
    resumed = train(setting, tmp_path / "run", prepared, changes=tp2, world_size=2)
    assert [row["tp_size"] for row in resumed] == [1] * 7 + [2] * 13
    for ours, theirs in zip(resumed, one_rank, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_with_the_optimizer_offloaded_resumes_bit_for_bit(sample_prepared: Path, tmp_path: Path) -> None:
    zero = load_ds_config(ROOT / "ds_configs" / "zero3_offload_cpu.json")["zero_optimization"] | {"overlap_comm": False}
    changes = {"zero_optimization": zero, "bf16": {"enabled": True}}
    whole = train(SHIPPED, tmp_path / "whole", sample_prepared, changes=changes)
    run_distributed(run_rank, 1, SHIPPED, tmp_path / "run", sample_prepared, (*NO_DROPOUT, "run.max_steps=7"), changes, 1, timeout=240)
    resumed = train(SHIPPED, tmp_path / "run", sample_prepared, changes=changes)
    curve = [[{k: row[k] for k in ("step", "loss", "grad_norm", "target_std", "tokens")} for row in rows] for rows in (resumed, whole)]
    assert curve[0] == curve[1]
    assert resumed[-1] == whole[-1]
