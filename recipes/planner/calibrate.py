"""Rates that are measured instead of tabulated: the efficiency and the bandwidth with which a run's updates took as long as they did."""

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.errors import ConfigError
from recipes.plan.devices import Sourced
from recipes.plan.links import Cluster
from recipes.plan.step import step_plan
from recipes.run_dir.run_dir import StoredConfig, read_config
from recipes.system.json_lines import read_rows
from recipes.train.resume import stored_recipe

FEWEST_ROWS = 3
"""Rows of metrics.jsonl that a calibration needs, without the first one, which has the warm-up."""
LEAST_SHARE = 0.05
"""Share of an update that products and other kernels must take on a CPU. What host and links take is not calibrated."""


class Calibration(NamedTuple):
    """What a run has measured."""

    cluster: Cluster
    """The cluster with the measured rates."""
    tokens_share: float
    """Share of the positions that were tokens; the rest was padding."""
    line: str
    """For the terminal: what was measured where."""


def calibrate(run_dir: Path, recipe: Recipe, config: EngineConfig, cluster: Cluster) -> Calibration:
    """Return the rates of the run in `run_dir`, for a plan of `recipe` with `config` on `cluster`. The run may have other sizes, but must
    be of the same recipe and precision, on the same devices.

    Raises: ConfigError if there is no such run, it is another one, or it has too few updates.
    """
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
    seconds = median(row["step_seconds"] for row in rows)
    here = replace(cluster, nodes=1, gpus=engine.batch.world_size) if cluster.device.is_shared else cluster
    step = step_plan(trained, engine, here)
    other = step.waits + (0.0 if step.on_gpu else step.host + step.links)
    measured, planned = seconds - other, sum(step.device.values()) - step.waits
    if measured < LEAST_SHARE * seconds or (step.on_gpu and step.binds not in ("compute", "memory")):
        raise ConfigError(
            f"--calibrate {run_dir}: its updates take {seconds:.3f} s, and by estimate {step.binds} binds and the device computes for "
            f"{planned:.3f}, so it says nothing about the device; name a run with larger updates"
        )
    scale = measured / planned
    share = median(row["tokens_per_second"] * row["step_seconds"] for row in rows) / step.tokens
    line = (
        f"calibrated by {run_dir}: {seconds:.4g} s per update in {len(rows)} rows, {1 / scale:.3g} of the tabulated rates; "
        f"{100 * min(1.0, share):.0f} % of the positions are tokens"
    )
    return Calibration(scaled(cluster, scale, str(run_dir)), min(1.0, share), line)


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


def scaled(cluster: Cluster, scale: float, source: str) -> Cluster:
    """Return the cluster whose devices take `scale` times as long, with `source` as the source of their rates."""
    device = cluster.device
    rates = {name: getattr(device, name) / scale for name in ("efficiency", "memory_gigabytes_per_second")}
    sources = {name: Sourced(value, f"--calibrate {source}", "measured") for name, value in rates.items()}
    return replace(cluster, device=replace(device, **rates, sources={**device.sources, **sources}))
