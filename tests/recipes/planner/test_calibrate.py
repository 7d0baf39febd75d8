"""Rates from a run's metrics: which runs are refused, and what follows from those that are not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.config import Recipe
from recipes.ds_config import EngineConfig, resolve
from recipes.errors import ConfigError
from recipes.plan.links import Cluster
from recipes.plan.step import step_plan
from recipes.planner.calibrate import calibrate, measured_rows, stored_engine
from recipes.planner.run_plan import RunPlan
from recipes.run_dir.run_dir import read_config
from recipes.settings import apply_overrides
from recipes.text import text_base
from recipes.train.resume import stored_recipe
from tests.launching import tiny_recipe

CPU = Cluster.of_text("device=cpu")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of two updates, with ten more rows of half a second."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    more = [rows[-1] | {"step": 3 + i, "step_seconds": 0.5, "tokens_per_second": 100.0} for i in range(10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows[:1], *more)))
    return folder


def trained(run: Path) -> tuple[Recipe, EngineConfig]:
    stored = read_config(run)
    assert stored is not None
    return stored_recipe(stored, tiny_recipe()), stored_engine(stored)


def test_the_plan_of_the_run_itself_takes_what_was_measured(run: Path) -> None:
    recipe, config = trained(run)
    found = calibrate([run], recipe, config, CPU)
    assert step_plan(recipe, config, found.cluster).total == pytest.approx(0.5)
    assert found.cluster.device.sources["efficiency"].kind == found.cluster.device.sources["memory_gigabytes_per_second"].kind == "measured"
    assert CPU.device.sources["efficiency"].source != found.cluster.device.sources["efficiency"].source
    positions = recipe.run.global_batch_size * recipe.data.longest_sample
    assert found.tokens_share == pytest.approx(min(1.0, 50 / positions))
    assert "0.5 s per update in 10 rows" in found.line


def test_other_sizes_of_the_recipe_scale_with_it(run: Path) -> None:
    recipe, config = trained(run)
    larger = apply_overrides(recipe, ["model.num_layers=4"])
    rates = calibrate([run], larger, config, CPU).cluster
    assert RunPlan(larger, config, rates).step.total > 1.5 * 0.5


def broken(run: Path, what: str) -> Path:
    if what == "nothing":
        return run.parent / "nowhere"
    if what == "no metrics":
        (run / "metrics.jsonl").unlink()
    if what == "unfinished":
        lines = (run / "metrics.jsonl").read_text().splitlines()
        (run / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    if what == "old":
        content = json.loads((run / "config.json").read_text())
        content.pop("world_size")
        (run / "config.json").write_text(json.dumps(content))
    if what == "fast":
        rows = [json.loads(line) | {"step_seconds": 1e-6} for line in (run / "metrics.jsonl").read_text().splitlines()]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "there is no config.json in it; name the run dir"),
        ("no metrics", "metrics.jsonl is missing, which has the times of its updates; name another run dir"),
        ("unfinished", "it is at step 3 of 2, with 1 measured rows behind the first; 3 are needed; let it run on, or log more often"),
        ("old", "does not say how the run was trained; name another run dir"),
        ("fast", "so it says nothing about the device; name a run with larger updates"),
    ],
)
def test_runs_that_say_nothing_are_refused(run: Path, what: str, said: str) -> None:
    recipe, config = trained(run)
    with pytest.raises(ConfigError) as caught:
        calibrate([broken(run, what)], recipe, config, CPU)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_of_another_recipe_or_precision_is_refused(run: Path) -> None:
    recipe, config = trained(run)
    with pytest.raises(ConfigError, match=f"its recipe is {recipe.name}, not text_base; name a run of that, or --recipe {recipe.name}"):
        calibrate([run], text_base(), config, CPU)
    other = resolve(recipe, {"bf16": {"enabled": True}}, "x.json", 1)
    with pytest.raises(ConfigError, match="it was trained in fp32, and the plan is in bf16; name another run or another"):
        calibrate([run], recipe, other, CPU)


def test_the_first_row_and_rows_without_times_are_left_out(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99}\n')
    assert len(measured_rows(run, trained(run)[0])) == 10


def larger_copy(run: Path, seconds: float) -> Path:
    """Return a copy of `run` of four times the width, whose updates take `seconds`."""
    folder = run.parent / f"larger_{seconds:g}"
    shutil.copytree(run, folder)
    content = json.loads((folder / "config.json").read_text())
    model = content["recipe"]["model"]
    model["hidden_size"], model["ffn_hidden_size"] = 4 * model["hidden_size"], 4 * model["ffn_hidden_size"]
    (folder / "config.json").write_text(json.dumps(content))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row | {"step_seconds": seconds}) + "\n" for row in rows))
    return folder


def test_two_runs_measure_the_device_and_python_and_their_own_plans_take_what_was_measured(run: Path) -> None:
    recipe, config = trained(run)
    larger = larger_copy(run, 0.9)
    found = calibrate([run, larger], recipe, config, CPU)
    for path, seconds in ((run, 0.5), (larger, 0.9)):
        assert step_plan(*trained(path), found.cluster).total == pytest.approx(seconds)
    device = found.cluster.device
    assert device.sources["host_factor"].kind == "measured" and device.sources["host_factor"].source.endswith(f"{run} and {larger}")
    assert "0.5 and 0.9 s per update in 10 and 10 rows" in found.line and "times the tabulated seconds of Python" in found.line


@pytest.mark.parametrize("seconds", [0.5, 0.4, 500.0])
def test_two_runs_that_no_rates_explain_are_refused(run: Path, seconds: float) -> None:
    recipe, config = trained(run)
    with pytest.raises(ConfigError, match=f"take 0.5 and {seconds:g} s, which no rates of device and host explain; name runs whose sizes"):
        calibrate([run, larger_copy(run, seconds)], recipe, config, CPU)


def test_two_runs_of_one_size_or_three_runs_are_refused(run: Path) -> None:
    recipe, config = trained(run)
    with pytest.raises(ConfigError, match="which no rates of device and host explain; name runs whose sizes differ more, or one run"):
        calibrate([run, run], recipe, config, CPU)
    with pytest.raises(ConfigError, match="--calibrate names 3 runs; name one, or two whose sizes differ"):
        calibrate([run] * 3, recipe, config, CPU)


def test_on_a_gpu_one_run_must_be_bound_by_the_device_and_one_by_the_host(run: Path) -> None:
    recipe, config = trained(run)
    gpu = Cluster.of_text("nodes=1,gpus=1,device=h100")
    with pytest.raises(ConfigError, match="by estimate host and host bind their updates; name a run with large updates, which the device"):
        calibrate([run, larger_copy(run, 0.9)], recipe, config, gpu)
    slow = replace(gpu, device=gpu.device.changed({"efficiency": 1e-9}))
    with pytest.raises(ConfigError, match="by estimate compute and compute bind"):
        calibrate([run, larger_copy(run, 0.8)], recipe, config, slow)


def test_links_that_a_cpu_waits_for_are_not_calibrated(run: Path) -> None:
    """Two ranks with slow links: the rates explain what is left of an update."""
    recipe, config = trained(run)
    slow = replace(CPU, device=CPU.device.changed({"node_microseconds": 100_000 / 30}))
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"world_size": 2}))
    links = step_plan(recipe, trained(run)[1], replace(slow, gpus=2)).links
    assert 0.05 < links < 0.4
    found = calibrate([run], recipe, config, slow)
    assert step_plan(recipe, trained(run)[1], replace(found.cluster, gpus=2)).total == pytest.approx(0.5)
