"""Rates that are measured instead of tabulated: the efficiency and the bandwidth with which a run's updates took as long as they did, and
with a second run the time of the host's Python."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.errors import ConfigError
from recipes.plan.devices import Sourced
from recipes.plan.links import Cluster
from recipes.plan.step import StepPlan, step_plan
from recipes.run_dir.run_dir import StoredConfig, read_config
from recipes.system.json_lines import read_rows
from recipes.train.resume import stored_recipe

FEWEST_ROWS = 3
"""Rows of metrics.jsonl that a calibration needs, without the first one, which has the warm-up."""
LEAST_SHARE = 0.05
"""Share of an update that products and other kernels must take, if one run calibrates. Host and links are as planned then."""
MOST_RUNS = 2
LEAST_DIFFERENCE = 0.3
"""Least relative difference of device seconds per second of Python between two runs on a CPU. Runs that differ in depth or batch only have
nearly the same, and a noise of 2 % would double a rate."""
LEAST_MARGIN = 0.05
"""Share of an update by which, on a GPU, the host must be faster than the device in one run, and slower in the other."""
DEVICE_RATES, HOST_RATE = ("efficiency", "memory_gigabytes_per_second"), ("host_factor",)


class Calibration(NamedTuple):
    """What runs have measured."""

    cluster: Cluster
    """The cluster with the measured rates."""
    tokens_share: float
    """Share of the positions that were tokens; the rest was padding."""
    line: str
    """For the terminal: what was measured where."""


class MeasuredRun(NamedTuple):
    """A run, and what the tables say about it."""

    path: Path
    seconds: float
    """Median time of an update."""
    num_rows: int
    tokens_share: float
    step: StepPlan

    @property
    def python_seconds(self) -> float:
        """Planned seconds of Python."""
        return self.step.host - self.step.offload

    @property
    def device_seconds(self) -> float:
        """Planned seconds of the device, without what it waits for."""
        return sum(self.step.device.values()) - self.step.waits

    @property
    def waiting_seconds(self) -> float:
        """Planned seconds of links that add to those of the device."""
        return self.step.waits + (0.0 if self.step.on_gpu else self.step.links)

    @property
    def measured_device_seconds(self) -> float:
        """What is left of an update for the device, if all else is as planned."""
        return self.seconds - self.waiting_seconds - (0.0 if self.step.on_gpu else self.step.host)

    @property
    def measures_device(self) -> bool:
        """Whether the time of an update shows that of the device."""
        binds = not self.step.on_gpu or self.step.binds in ("compute", "memory")
        return binds and self.measured_device_seconds >= LEAST_SHARE * self.seconds


def calibrate(run_dirs: Sequence[Path], recipe: Recipe, config: EngineConfig, cluster: Cluster) -> Calibration:
    """Return the rates of the runs in `run_dirs`, for a plan of `recipe` with `config` on `cluster`. The runs may have other sizes, but
    must be of the same recipe and precision, on the same devices. One run measures the device. Two runs, which differ in size, measure the
    device and the host's Python: on a GPU each of these binds one of the runs, on a CPU their sum explains both.

    Raises: ConfigError if there is no such run, it is another one, or it has too few updates.
    """
    runs = [measured_run(path, recipe, config, cluster) for path in run_dirs]
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"--calibrate names {len(runs)} runs; name one, or two whose sizes differ")
    device_scale, host_scale = _two_scales(*runs) if len(runs) == MOST_RUNS else (_device_scale(runs[0]), None)
    names = " and ".join(str(run.path) for run in runs)
    found = scaled(cluster, 1 / device_scale, DEVICE_RATES, names)
    python = ""
    if host_scale is not None:
        found = scaled(found, host_scale, HOST_RATE, names)
        python = f", {host_scale:.3g} times the tabulated seconds of Python"
    share = min(1.0, mean(run.tokens_share for run in runs))
    seconds = " and ".join(f"{run.seconds:.4g}" for run in runs)
    rows = " and ".join(str(run.num_rows) for run in runs)
    line = (
        f"calibrated by {names}: {seconds} s per update in {rows} rows, {1 / device_scale:.3g} of the tabulated rates{python}; "
        f"{100 * share:.0f} % of the positions are tokens"
    )
    return Calibration(found, share, line)


def _device_scale(run: MeasuredRun) -> float:
    """Return how many times as long as planned the device takes in `run`, if all other times are as planned."""
    if not run.measures_device:
        raise ConfigError(
            f"--calibrate {run.path}: its updates take {run.seconds:.3f} s, and by estimate {run.step.binds} binds and the device computes "
            f"for {run.device_seconds:.3f}, so it says nothing about the device; name a run with larger updates"
        )
    return run.measured_device_seconds / run.device_seconds


def _two_scales(one: MeasuredRun, other: MeasuredRun) -> tuple[float, float]:
    """Return how many times as long as planned the device and the host's Python take."""
    return _scales_on_a_gpu(one, other) if one.step.on_gpu else _scales_on_a_cpu(one, other)


def _scales_on_a_gpu(one: MeasuredRun, other: MeasuredRun) -> tuple[float, float]:
    names = f"--calibrate {one.path} {other.path}"
    large, small = (one, other) if one.measures_device else (other, one)
    remedy = "name a run with large updates, which the device binds, and one with small updates, which the host binds"
    if not large.measures_device or small.step.binds != "host" or small.seconds <= small.step.offload:
        raise ConfigError(f"{names}: by estimate {one.step.binds} and {other.step.binds} bind their updates; {remedy}")
    device_scale, host_scale = _device_scale(large), (small.seconds - small.step.offload) / small.python_seconds
    host = host_scale * large.python_seconds + large.step.offload
    device = device_scale * small.device_seconds + small.waiting_seconds
    for run, rest, name in ((large, host, "host"), (small, device, "device")):
        if rest > (1 - LEAST_MARGIN) * run.seconds:
            raise ConfigError(
                f"{names}: the updates of {run.path} take {run.seconds:.4g} s, and by the other run its {name} alone takes {rest:.4g}; "
                f"{remedy}"
            )
    return device_scale, host_scale


def _scales_on_a_cpu(one: MeasuredRun, other: MeasuredRun) -> tuple[float, float]:
    rest = one.seconds - one.waiting_seconds, other.seconds - other.waiting_seconds
    products = one.device_seconds * other.python_seconds, other.device_seconds * one.python_seconds
    determinant = products[0] - products[1]
    if abs(determinant) >= LEAST_DIFFERENCE * max(products):
        device_scale = (rest[0] * other.python_seconds - rest[1] * one.python_seconds) / determinant
        host_scale = (rest[1] * one.device_seconds - rest[0] * other.device_seconds) / determinant
        if device_scale > 0 and host_scale > 0:
            return device_scale, host_scale
    raise ConfigError(
        f"--calibrate {one.path} {other.path}: their updates take {one.seconds:.4g} and {other.seconds:.4g} s, from which the times of "
        "device and host do not follow; name runs whose widths differ more, not only in depth or batch, or one run"
    )


def measured_run(run_dir: Path, recipe: Recipe, config: EngineConfig, cluster: Cluster) -> MeasuredRun:
    """Return the run in `run_dir` with its plan on `cluster`. Raises: ConfigError unless it is of the same recipe and precision, and has
    enough rows."""
    stored = read_config(run_dir)
    if stored is None:
        raise ConfigError(f"--calibrate {run_dir}: there is no config.json in it; name the run dir of a pre-training or fine-tuning run")
    if stored.recipe["name"] != recipe.name:
        raise ConfigError(
            f"--calibrate {run_dir}: its recipe is {stored.recipe['name']}, not {recipe.name}; name a run of that, or --recipe "
            f"{stored.recipe['name']}"
        )
    trained, engine = stored_recipe(stored, recipe), stored_engine(stored)
    if engine.precision != config.precision:
        raise ConfigError(
            f"--calibrate {run_dir}: it was trained in {engine.precision}, and the plan is in {config.precision}; name another run or "
            "another --deepspeed_config"
        )
    rows = measured_rows(run_dir, trained)
    here = replace(cluster, nodes=1, gpus=engine.batch.world_size) if cluster.device.is_shared else cluster
    step = step_plan(trained, engine, here)
    share = median(row["tokens_per_second"] * row["step_seconds"] for row in rows) / step.tokens
    return MeasuredRun(run_dir, median(row["step_seconds"] for row in rows), len(rows), share, step)


def measured_rows(run_dir: Path, trained: Recipe) -> list[dict[str, Any]]:
    """Return the rows of the run's metrics.jsonl that have timings, without the first one. Raises: ConfigError if there are too few."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        raise ConfigError(f"--calibrate {run_dir}: metrics.jsonl is missing, which has the times of its updates; name another run dir")
    rows, _ = read_rows(path)
    timed = [row for row in rows if row.get("step_seconds") and row.get("tokens_per_second")][1:]
    if len(timed) < FEWEST_ROWS:
        step = rows[-1].get("step", 0) if rows else 0
        raise ConfigError(
            f"--calibrate {run_dir}: it is at step {step} of {trained.run.max_steps}, with {len(timed)} measured rows behind the first; "
            f"{FEWEST_ROWS} are needed; let it run on, or log more often: --set run.log_steps=1"
        )
    return timed


def stored_engine(stored: StoredConfig) -> EngineConfig:
    """Return the ds_config with which the run was trained last."""
    content = stored.content
    try:
        deepspeed, world_size, tp_size = content["deepspeed"], content["world_size"], content["tp_size"]
        batch = BatchPlan(
            world_size,
            tp_size,
            world_size // tp_size,
            deepspeed["train_micro_batch_size_per_gpu"],
            deepspeed["gradient_accumulation_steps"],
            num_replicas=content.get("num_replicas", 1),
        )
    except (KeyError, TypeError):
        raise ConfigError(f"{stored.writer} does not say how the run was trained; name another run dir") from None
    recomputes, once = content.get("recomputes_activations", False), content.get("gathers_once", True)
    return EngineConfig(content.get("deepspeed_config", ""), deepspeed, batch, recomputes, gathers_once=once)


def scaled(cluster: Cluster, scale: float, names: Sequence[str], source: str) -> Cluster:
    """Return the cluster whose devices have `scale` times the numbers `names`, with `source` as their source."""
    device = cluster.device
    rates = {name: getattr(device, name) * scale for name in names}
    sources = {name: Sourced(value, f"--calibrate {source}", "measured") for name, value in rates.items()}
    return replace(cluster, device=replace(device, **rates, sources={**device.sources, **sources}))
