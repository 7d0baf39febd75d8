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
from recipes.planner.calibrate import DEVICE_RATES, calibrate, measured_rows, scaled, stored_engine
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


def larger_copy(run: Path, seconds: float, **sizes: int) -> Path:
    """Return a copy of `run` of other `sizes` (default: four times the width), whose updates take `seconds`."""
    folder = run.parent / f"larger_{seconds:g}"
    shutil.copytree(run, folder)
    content = json.loads((folder / "config.json").read_text())
    model = content["recipe"]["model"]
    model.update(sizes or {name: 4 * model[name] for name in ("hidden_size", "ffn_hidden_size")})
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
    with pytest.raises(ConfigError, match=f"take 0.5 and {seconds:g} s, from which the times of device and host do not follow; name runs"):
        calibrate([run, larger_copy(run, seconds)], recipe, config, CPU)


def test_two_runs_that_differ_in_depth_only_are_refused(run: Path) -> None:
    """Device and Python take nearly the same shares in both, so that noise would decide."""
    recipe, config = trained(run)
    with pytest.raises(ConfigError, match="name runs whose widths differ more, not only in depth or batch"):
        calibrate([run, larger_copy(run, 2.0, num_layers=4 * recipe.model.num_layers)], recipe, config, CPU)


def test_two_runs_of_one_size_or_three_runs_are_refused(run: Path) -> None:
    recipe, config = trained(run)
    with pytest.raises(ConfigError, match="from which the times of device and host do not follow"):
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


@pytest.fixture
def pair(run: Path) -> tuple[Path, Path]:
    """Runs of text_base's width with batches of 2048 and 2, which an H100 and the host bind, and the same recipe and precision."""
    folders = []
    for batch in (2048, 2):
        folder = run.parent / f"batch_{batch}"
        shutil.copytree(run, folder)
        content = json.loads((folder / "config.json").read_text())
        content["recipe"]["model"].update(hidden_size=768, ffn_hidden_size=3072, num_attention_heads=12, num_layers=12)
        content["recipe"]["run"]["global_batch_size"] = batch
        content["deepspeed"].update(train_batch_size=batch, train_micro_batch_size_per_gpu=batch, gradient_accumulation_steps=1)
        (folder / "config.json").write_text(json.dumps(content))
        folders.append(folder)
    return folders[0], folders[1]


def with_seconds(folder: Path, seconds: float) -> Path:
    """Write `seconds` as the time of every update of a run."""
    rows = [json.loads(line) | {"step_seconds": seconds} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("device", "host"), [(1.0, 1.0), (1.5, 0.8), (1.2, 2.0)])
def test_on_a_gpu_the_large_run_measures_the_device_and_the_small_one_the_host(pair: tuple[Path, Path], device: float, host: float) -> None:
    gpu = Cluster.of_text("nodes=1,gpus=1,device=h100")
    true = replace(gpu, device=replace(gpu.device, host_factor=host * gpu.device.host_factor))
    true = scaled(true, 1 / device, DEVICE_RATES, "made up")
    for folder in pair:
        with_seconds(folder, step_plan(*trained(folder), true).total)
    large, small = (step_plan(*trained(folder), true) for folder in pair)
    assert large.binds in ("compute", "memory") and small.binds == "host"
    recipe, config = trained(pair[0])
    for order in (pair, pair[::-1]):
        found = calibrate(order, recipe, config, gpu).cluster.device
        assert found.host_factor == pytest.approx(true.device.host_factor) and found.efficiency == pytest.approx(true.device.efficiency)


def test_on_a_gpu_a_large_run_that_the_host_binds_is_refused(pair: tuple[Path, Path]) -> None:
    """By the table the device binds it; by the small run, whose host is much slower than in the table, the host does."""
    gpu = Cluster.of_text("nodes=1,gpus=1,device=h100")
    true = replace(gpu, device=replace(gpu.device, host_factor=100 * gpu.device.host_factor))
    for folder in pair:
        with_seconds(folder, step_plan(*trained(folder), true).total)
    recipe, config = trained(pair[0])
    with pytest.raises(ConfigError, match="and by the other run its host alone takes "):
        calibrate(pair, recipe, config, gpu)


def test_a_run_that_waits_for_nearly_all_of_its_time_measures_no_device(pair: tuple[Path, Path]) -> None:
    """On a GPU too: what is left for the device would be nothing or less."""
    gpu = Cluster.of_text("nodes=1,gpus=2,device=h100,node_gigabytes_per_second=100")
    folder = pair[0]
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"world_size": 2, "tp_size": 2}))
    step = step_plan(*trained(folder), gpu)
    assert step.binds in ("compute", "memory") and step.waits > 0
    with_seconds(folder, step.waits)
    recipe, config = trained(folder)
    with pytest.raises(ConfigError, match="so it says nothing about the device"):
        calibrate([folder], recipe, config, gpu)
