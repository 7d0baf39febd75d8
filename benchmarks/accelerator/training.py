"""Checks training on the device: each tiny recipe runs through the training loop, stays finite, saves, and resumes with the same bits."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from accelerator.result import CANNOT, FAIL, OK, Row, unsupported_row
from accelerator.setting import run_recipe
from accelerator.worker import Context
from recipes.catalog import RECIPES
from recipes.check import resolve_recipe
from recipes.cluster.checkout import ROOT
from recipes.engine.build import is_supported
from recipes.system.json_lines import read_rows

STEPS, SAVED_AT = 5, 3
TIMES = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"}
COMMON = {
    **{"run.max_steps": STEPS, "run.save_steps": SAVED_AT, "run.eval_steps": STEPS, "run.log_steps": 1, "run.eval_samples": 16},
    **{"run.global_batch_size": 16, "optim.warmup_steps": 2},
    **{f"model.{name}": 0.1 for name in ("hidden_dropout", "attention_dropout")},
}
TINY = {"run.global_batch_size": 8, "model.num_layers": 1, "teacher.average_top_k_layers": 1}
NOVEL = ROOT / "recipes" / "samples" / "text" / "Chesterton_Napoleon_1904.txt.gz"
OF_MODALITY: dict[str, dict[str, Any]] = {"text": {}, "speech": {"data.group_size": 4}, "vision": {}}
OF_TINY_MODALITY: dict[str, dict[str, Any]] = {"text": {"data.path": NOVEL}, "speech": {}, "vision": {}}


def settings_of(context: Context, modality: str) -> dict[str, Any]:
    """Return the settings (dotted name -> value) with which the modality's tiny recipe makes a run of a few updates."""
    return COMMON | OF_MODALITY[modality] | (TINY | OF_TINY_MODALITY[modality] if context.is_tiny else {})


def check_training(context: Context, modality: str, precision: str) -> Iterator[Row]:
    """Run five updates with run.deterministic=true, the last two again from a checkpoint, and five updates without that setting. Yield
    rows: losses are finite, the resumed run has the same bits, and what the setting changes."""
    if not is_supported(precision):
        yield unsupported_row(precision, f"{STEPS} updates")
        return
    config = f"zero3_{precision}"
    whole, free = context.folder / "whole", context.folder / "free"
    # The deterministic runs come first: cuBLAS reads their setting at the first product of a process.
    train(context, modality, config, whole, {"run.deterministic": True})
    yield finite_row(whole, f"{STEPS} updates, run.deterministic=true")
    yield resumed_row(whole, lambda run_dir: train(context, modality, config, run_dir, {"run.deterministic": True}))
    train(context, modality, config, free, {"data.path": whole / "prepared"})
    yield finite_row(free, f"{STEPS} updates")
    difference = same_bits_row(free, whole, "without run.deterministic = with it")
    yield Row(difference.what, OK, difference.seen, difference.numbers)  # a measurement: what determinism changes


def check_offload(context: Context) -> Iterator[Row]:
    """Run five updates with the optimizer's state in host memory, and yield a row: whether loss and gradients stay finite."""
    if context.device == "cpu":
        yield Row("zero3_offload_cpu", CANNOT, "the host is the device here; tests/recipes/engine/test_cpu_adam.py has it")
        return
    train(context, "text", "zero3_offload_cpu", context.folder / "run")
    yield finite_row(context.folder / "run", f"zero3_offload_cpu, {STEPS} updates")


def train(context: Context, modality: str, config_name: str, run_dir: Path, more: dict[str, Any] | None = None) -> None:
    """Train the modality's tiny recipe in this process, with the loop that the launch scripts call. `more`: further settings."""
    values = settings_of(context, modality) | (more or {})
    settings = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    recipe = resolve_recipe(f"{modality}_tiny", RECIPES[modality], settings, None)
    run_recipe(recipe, config_name, run_dir)


def resumed_row(whole: Path, run: Callable[[Path], None]) -> Row:
    """Copy the finished run `whole` without its last checkpoint, continue the copy with run(run_dir), and return a row that says whether it
    has the same bits."""
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / f"step_{STEPS:08d}")
    run(resumed)
    return same_bits_row(whole, resumed, f"resumed at {SAVED_AT} = uninterrupted")


def finite_row(run_dir: Path, what: str) -> Row:
    """Return a row that says whether every update of the run was applied with a finite loss and gradient. `what`: its title."""
    rows = _metrics(run_dir)
    steps = {row["step"] for row in rows}
    skipped = max(row["skipped_steps"] for row in rows)
    bad = [row["step"] for row in rows if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"])]
    loss, norm = rows[-1]["loss"], rows[-1]["grad_norm"]
    seen = f"loss {rows[0]['loss']:.4f} -> {loss:.4f}, gradient norm {norm:.3g}, {skipped} skipped"
    if bad or steps != set(range(1, STEPS + 1)):
        return Row(what, FAIL, f"{seen}; steps {sorted(steps)}, not finite at {bad}")
    return Row(what, OK, seen, {"losses": [row["loss"] for row in rows], "skipped": skipped})


def same_bits_row(first: Path, second: Path, what: str) -> Row:
    """Return a row that says whether two runs ended with the same metrics and tensors, bit for bit, and if not, by how much they differ.
    `what`: its title."""
    one, other = (_tensors(run_dir) for run_dir in (first, second))
    differing = [name for name in one.keys() | other.keys() if name not in one or name not in other or not _equal(one[name], other[name])]
    if not differing and _metrics(first)[-1] == _metrics(second)[-1]:
        return Row(what, OK, f"the same bits in {len(one)} tensors")
    gaps = {n: float((one[n].double() - other[n].double()).abs().max()) for n in differing if n in one and n in other}
    worst = max(gaps, key=lambda name: gaps[name], default="none")
    seen = f"{len(differing)} of {len(one)} tensors differ, most by {gaps.get(worst, 0.0):.1e} ({worst})" if differing else "other metrics"
    return Row(what, FAIL, seen, {"differing": sorted(differing)})


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    rows, _ = read_rows(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def _tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step_{STEPS:08d}" / "rank_00000.safetensors")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))
