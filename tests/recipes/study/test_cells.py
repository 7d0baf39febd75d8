"""The cells of a study: their names, recipes, ds_configs and ranks, and which of them are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.check import resolve_recipe
from recipes.errors import ConfigError
from recipes.plan.flops import sample_flops
from recipes.study.cells import FEWEST_UPDATES, Cell, cells_of
from recipes.study.study_file import SHIPPED_STUDIES, read_study
from recipes.text import RECIPES, text_tiny
from recipes.values import text_of_value
from tests.made_up_study import made_up_study

HIDDEN, STEPS, BATCH = "model.hidden_size", "run.max_steps", "run.global_batch_size"


def cells(folder: Path, **keys: Any) -> list[Cell]:
    return cells_of(read_study(made_up_study(folder, **keys)))


def one_cell(folder: Path, **keys: Any) -> Cell:
    (cell,) = cells(folder, **{"axes": {STEPS: [20]}, **keys})
    return cell


def test_cells_are_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = cells(tmp_path)
    names = [f"hidden_size-{width}_max_steps-{steps}" for width in (32, 64) for steps in (20, 40)]
    assert [cell.name for cell in found] == names
    assert found[1].values == {"hidden_size": 32, "max_steps": 40} and not any(cell.refused for cell in found)


def test_the_settings_of_a_cell_make_its_recipe(tmp_path: Path) -> None:
    """--set of a run gives exactly the recipe that was planned."""
    axes = {HIDDEN: [32, 48], "teacher.layer_norms": [["instance"], ["layer", "batch"]], "model.init_std": [None, 0.02], "flops": [1e12]}
    for cell in cells(tmp_path, axes=axes, set={"data.lowercase": False}, metric="probe.cloze"):
        words = [f"{name}={text_of_value(value)}" for name, value in cell.settings.items()]
        assert resolve_recipe("text_tiny", RECIPES, words, None) == cell.recipe
        assert cell.recipe.data.lowercase is False and cell.recipe.eval.probe_task == "cloze"


def test_a_probe_is_the_metric_so_it_runs_four_times_and_at_the_end(tmp_path: Path) -> None:
    assert one_cell(tmp_path, axes={STEPS: [42]}).recipe.eval.probe_steps == 11
    assert one_cell(tmp_path, metric="loss").recipe.eval.probe_steps == 0
    assert one_cell(tmp_path, set={"eval.probe_steps": 7}).recipe.eval.probe_steps == 7


def test_a_cell_of_the_base_has_no_settings(tmp_path: Path) -> None:
    cell = one_cell(tmp_path, axes={HIDDEN: [128]}, metric="loss", rules=[])
    assert (cell.settings, cell.derived, cell.recipe) == ({}, {}, text_tiny())


def test_derived_settings_have_the_name_of_their_rule(tmp_path: Path) -> None:
    cell = one_cell(tmp_path, axes={HIDDEN: [32]}, set={"optim.lr": 0.01, STEPS: 400})
    assert cell.derived["model.ffn_hidden_size"] == ["ffn_ratio"] and cell.derived["run.log_steps"] == ["intervals"]
    assert cell.recipe.optim.lr == 0.01 and "optim.lr" not in cell.derived


@pytest.mark.parametrize("budget", [1e12, 3.3e12])
@pytest.mark.parametrize("keys", [{}, {"rules": {"batch": True}}, {"rules": {"batch": True}, "set": {BATCH: 24}}])
def test_the_flops_of_a_cell_are_its_budget(budget: float, keys: dict[str, Any], tmp_path: Path) -> None:
    for cell in cells(tmp_path, axes={HIDDEN: [32, 64], "flops": [budget]}, **keys):
        assert cell.flops == pytest.approx(budget, rel=0.02)
        assert cell.flops == sum(sample_flops(cell.recipe).values()) * cell.recipe.run.global_batch_size * cell.recipe.run.max_steps


def test_the_tokens_of_a_cell_are_its_budget(tmp_path: Path) -> None:
    cell = one_cell(tmp_path, axes={"tokens": [1e6]})
    assert cell.tokens == pytest.approx(1e6, rel=0.01) and cell.recipe.run.max_steps == round(1e6 / (16 * 128))
    assert cell.recipe.optim.schedule_steps == cell.recipe.run.max_steps


def test_a_budget_that_is_too_small_refuses_its_cell_alone(tmp_path: Path) -> None:
    small, enough = cells(tmp_path, axes={"tokens": [16 * 128 * (FEWEST_UPDATES - 1), 16 * 128 * FEWEST_UPDATES]})
    assert "tokens pay for 9.0 updates" in small.refused and "fewer than 10" in small.refused
    assert (enough.refused, enough.recipe.run.max_steps) == ("", FEWEST_UPDATES)


def test_objects_change_settings_ranks_and_ds_config_together(tmp_path: Path) -> None:
    size = [
        {"name": "small one", HIDDEN: 32, "ranks": 1, "ds_config.train_micro_batch_size_per_gpu": 8},
        {HIDDEN: 64, BATCH: 32, "ranks": 2, "deepspeed_config": "zero3_cpu_bf16"},
    ]
    small, large = cells(tmp_path, axes={"size": size, STEPS: [20]})
    assert (small.name, small.ranks, small.ds_changes) == ("size-small-one_max_steps-20", 1, {"train_micro_batch_size_per_gpu": 8})
    assert small.values == {"size": "small one", "max_steps": 20} and small.recipe.model.hidden_size == 32
    assert (large.name, large.ranks, large.ds_config.stem) == (
        "size-64x32x2xzero3_cpu_bf16_max_steps-20",
        2,
        "zero3_cpu_bf16",
    )
    assert large.recipe.run.global_batch_size == 32 and large.cluster.num_ranks == 2
    assert (small.config.batch.micro_batch_size, small.config.batch.accumulation_steps) == (8, 2)


def test_a_nested_key_of_the_ds_config_is_an_axis(tmp_path: Path) -> None:
    axes = {"ds_config.zero_optimization.reduce_bucket_size": [1000, 2000], "ds_config.bf16.enabled": [True]}
    first, second = cells(tmp_path, axes=axes)
    assert first.name == "reduce_bucket_size-1000_enabled-true"
    assert second.ds_content["zero_optimization"]["reduce_bucket_size"] == 2000 and second.ds_content["zero_optimization"]["stage"] == 3
    assert second.config.precision == "bf16"


def test_a_ds_config_key_that_cannot_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of the 1 cells can run; .*reduce_bucket"):
        cells(tmp_path, axes={"ds_config.zero_optimization.reduce_bucket_siz": [1000]})
    with pytest.raises(ConfigError, match="gradient_clipping"):
        cells(tmp_path, axes={"ds_config.gradient_clipping.value": [1]})


@pytest.mark.parametrize(
    "axes",
    [
        {HIDDEN: [32, 32]},
        {"optim.lr": [0.001, 1e-3]},
        {"optim.lr": [0.001, 0.00100000001]},
        {"size": [{"name": "a", HIDDEN: 32}, {"name": "a", HIDDEN: 64}]},
        {"size": [{"name": "a b", HIDDEN: 32}, {"name": "a-b", HIDDEN: 64}]},
        {"size": [{HIDDEN: 32}, {HIDDEN: 32}]},
    ],
)
def test_two_cells_with_one_name_are_refused(axes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 cells have the name .*; take out values that stand twice"):
        cells(tmp_path, axes=axes)


VALUES = st.one_of(st.integers(1, 10**7), st.floats(1e-6, 1e6), st.text("ab/.\\ -_", min_size=1, max_size=6), st.booleans())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_names_are_unique_and_plain_folders_or_refused(tmp_path: Path, names: list[Any]) -> None:
    axes = {"size": [{"name": name, STEPS: 20 + number} for number, name in enumerate(names)]}
    try:
        found = [cell.name for cell in cells(tmp_path, axes=axes)]
    except ConfigError as error:
        assert "cells have the name" in str(error)
    else:
        assert len(set(found)) == len(names) and all(Path(name).name == name and "\\" not in name for name in found)


@pytest.mark.parametrize("axis", ["a/b", "../up", "", "size.", "a b"])
def test_the_name_of_an_axis_of_objects_makes_no_folder(axis: str, tmp_path: Path) -> None:
    try:
        (cell,) = cells(tmp_path, axes={axis: [{"name": "x", STEPS: 20}]})
    except ConfigError as error:
        assert "axes" in str(error)
    else:
        assert Path(cell.name).name == cell.name and " " not in cell.name and not cell.name.startswith("-")


def test_axes_with_one_last_part_keep_their_whole_names(tmp_path: Path) -> None:
    axes = {"teacher.layer_norms": [["layer"]], "data.path": ["a"], "size.path": [{"name": "x", STEPS: 20}]}
    assert [cell.name for cell in cells(tmp_path, axes=axes)] == ["layer_norms-layer_data.path-a_size.path-x"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (HIDDEN, "wide"),
        (HIDDEN, 32.5),
        (HIDDEN, None),
        (HIDDEN, [32, 64]),
        (HIDDEN, {"x": {"y": 1}}),
        ("data.lowercase", 1),
        ("optim.lr", "x"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_the_file(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.json: "):
        cells(tmp_path, axes={name: [value]})


@pytest.mark.parametrize(
    ("name", "value"),
    [(HIDDEN, 0), (HIDDEN, -32), (BATCH, 0), (BATCH, -8), (STEPS, 0), (STEPS, -5), ("model.num_layers", 0), ("optim.lr", -1.0)],
)
@pytest.mark.parametrize("length", [{}, {"flops": [1e12]}])
def test_a_value_out_of_bounds_refuses_its_cell_alone(name: str, value: Any, length: dict[str, Any], tmp_path: Path) -> None:
    if name == STEPS and length:
        return  # two lengths
    good = {HIDDEN: 64, BATCH: 32, STEPS: 20, "model.num_layers": 2, "optim.lr": 1e-3}[name]
    bad, fine = cells(tmp_path, axes={name: [value, good], **length})
    assert bad.refused and not fine.refused


@pytest.mark.parametrize("rules", [{"lr_width": 1e6}, {"lr_width": -1e6}, {"lr_batch": 1e6}, {"batch": 1e6}])
def test_an_exponent_that_overflows_is_refused(rules: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        cells(tmp_path, axes={HIDDEN: [32], BATCH: [32], "tokens": [1e9]} if "batch" not in rules else {"tokens": [1e9]}, rules=rules)


def test_a_cell_that_does_not_fit_is_refused_and_others_stay(tmp_path: Path) -> None:
    size = [{"name": "huge", HIDDEN: 16384, "model.num_layers": 24}, {"name": "base", HIDDEN: 768}]
    keys: dict[str, Any] = {"base": "text_base", "deepspeed_config": "zero3_bf16", "cluster": "nodes=1,gpus=1,device=h100"}
    huge, base = cells(tmp_path, axes={"size": size, STEPS: [1000]}, metric="loss", **keys)
    assert "GiB" in huge.refused and base.refused == "" and base.plan.memory.worst.total > 0
    with pytest.raises(ConfigError, match=r"none of the 1 cells can run; size-huge_max_steps-1000: .*GiB"):
        cells(tmp_path, axes={"size": size[:1], STEPS: [1000]}, metric="loss", **keys)


@pytest.mark.parametrize(("ranks", "nodes", "gpus"), [(None, 1, 8), (1, 1, 1), (8, 1, 8), (16, 2, 8), (64, 8, 8)])
def test_ranks_are_a_part_of_the_cluster(ranks: int | None, nodes: int, gpus: int, tmp_path: Path) -> None:
    axes = {STEPS: [1000]} | ({"ranks": [ranks]} if ranks else {})
    cell = one_cell(tmp_path, axes=axes, base="text_base", deepspeed_config="zero3_bf16", cluster="gpus=8,device=h100")
    assert (cell.cluster.nodes, cell.cluster.gpus, cell.ranks, cell.refused) == (nodes, gpus, nodes * gpus, "")


def test_a_precision_without_a_peak_is_refused_and_others_stay(tmp_path: Path) -> None:
    good, bad = cells(tmp_path, axes={"deepspeed_config": ["zero3_cpu", "zero3_fp16"]})
    assert good.refused == "" and "device cpu has no peak in fp16" in bad.refused


def test_ranks_beyond_a_cluster_of_several_nodes_are_refused(tmp_path: Path) -> None:
    good, bad = cells(tmp_path, axes={"ranks": [16, 64]}, base="text_base", cluster="nodes=2,gpus=8,device=h100")
    assert good.refused == "" and bad.refused == "64 ranks need 8 nodes of 8, the cluster has 2"


def test_ranks_that_fill_no_whole_nodes_are_refused(tmp_path: Path) -> None:
    bad, good = cells(tmp_path, axes={"ranks": [6, 8], BATCH: [24]}, cluster="gpus=4,device=h100")
    assert bad.refused.startswith("6 ranks are no multiple of the 4 devices of a node") and good.refused == ""


def test_a_batch_that_does_not_divide_among_ranks_is_refused(tmp_path: Path) -> None:
    good, bad = cells(tmp_path, axes={"ranks": [1, 3]})
    assert good.refused == "" and "3" in bad.refused


@pytest.mark.parametrize("path", sorted(SHIPPED_STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_study_can_run(path: Path) -> None:
    found = cells_of(read_study(path))
    size = 1
    for values in json.loads(path.read_text())["axes"].values():
        size *= len(values)
    assert len(found) == size and not [cell.refused for cell in found if cell.refused]
